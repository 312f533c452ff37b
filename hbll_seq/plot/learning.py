"""Training over updates: losses, with seeds as bands, and the exactness of the rule's messages."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hbll_seq.errors import InputError
from hbll_seq.plot.style import COLOURS, axes, fit_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hbll_seq.training.history import History


def learning_curve(
    history: History, *, ax: Axes | None = None, label: str | None = None, colour: str | None = None
) -> Axes:
    """Plot training loss (thin) and validation loss (marked) over updates."""
    ax = axes(ax)
    h = history.history
    colour = colour or COLOURS[len(ax.lines) // 2 % len(COLOURS)]
    name = "" if label is None else f"{label}: "
    ax.plot(h["step"], smooth(h["loss"]), color=colour, lw=1, alpha=0.6, label=f"{name}training")
    if h.get("val_loss"):
        ax.plot(h["val_step"], h["val_loss"], color=colour, lw=2, marker="o", ms=4, label=f"{name}held out")
    ax.set_xlabel("training step")
    ax.set_ylabel("mean squared error" if history.config.get("objective") == "mse" else "loss (nats)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    fit_letters(ax)
    return ax


def learning_curves(runs: Mapping[str, Sequence[History]], *, held_out: bool = True, ax: Axes | None = None) -> Axes:
    """Plot the losses of several rules or settings: the mean over seeds as a line, least to greatest as a band.

    Args:
        runs: by name, the histories of one or more seeds; compared over the updates all seeds of a name recorded.
        held_out: validation loss; False for the training loss, smoothed.
        ax: axes to draw on.

    Raises:
        InputError: no runs, a name without runs, or runs without a recorded validation.
    """
    if not runs or not all(runs.values()):
        raise InputError("runs", {k: len(v) for k, v in runs.items()}, "at least one history a name")
    ax = axes(ax)
    for (name, histories), colour in zip(runs.items(), itertools.cycle(COLOURS)):
        curves = []
        for one in histories:
            h = one.history
            if held_out and not h.get("val_loss"):
                raise InputError("runs", f"{name!r} without a validation", "validation= in fit, or held_out=False")
            pairs = (h["val_step"], h["val_loss"]) if held_out else (h["step"], smooth(h["loss"]))
            curves.append(dict(zip(*pairs, strict=True)))
        steps = sorted(set.intersection(*(set(c) for c in curves)))
        values = [[c[s] for c in curves] for s in steps]
        seeds = f" ({len(curves)} seeds)" if len(curves) > 1 else ""
        ax.plot(steps, [statistics.mean(v) for v in values], color=colour, lw=2, label=name + seeds)
        if len(curves) > 1:
            ax.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, lw=0)
    first = next(iter(runs.values()))[0]
    unit = "mean squared error" if first.config.get("objective") == "mse" else "loss (nats)"
    ax.set_xlabel("training step")
    ax.set_ylabel(("held-out " if held_out else "training ") + unit)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    fit_letters(ax)
    return ax


def inconsistency(history: History, *, ax: Axes | None = None, colour: str | None = None) -> Axes:
    """Plot the relative inconsistency of the boundaries over training (log scale), and its tolerance.

    Args:
        history: the history of a run with rule "hbll".
        ax: axes to draw on.
        colour: colour of the line.

    Raises:
        InputError: a run without a recorded inconsistency.
    """
    h = history.history
    if not h.get("inconsistency"):
        raise InputError("history", f"a run with rule {history.config.get('rule')!r}", 'one with rule "hbll"')
    ax = axes(ax)
    floor = 1e-16  # a log scale has no zero, the value of exact boundaries
    ax.plot(h["step"], [max(v, floor) for v in h["inconsistency"]], color=colour or COLOURS[0], lw=1, label="measured")
    if h.get("tolerance"):
        ax.plot(h["step"], h["tolerance"], color="black", lw=1.2, ls="--", label="tolerance")
    ax.set_yscale("log")
    ax.set_xlabel("training step")
    ax.set_ylabel("boundary inconsistency\n(share of the states' variance)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    fit_letters(ax)
    return ax


def gradient_cosine(history: History, *, ax: Axes | None = None, label: str | None = None) -> Axes:
    """Plot the cosine of the rule's gradient to the exact one over training.

    Args:
        history: the history of a run with `fit(..., measure_cosine=)`.
        ax: axes to draw on.
        label: label of the line.

    Raises:
        InputError: a run without a recorded `gradient_cosine`.
    """
    h = history.history
    if not h.get("gradient_cosine"):
        raise InputError("history", "a run without gradient_cosine", "one that recorded it, see fit")
    ax = axes(ax)
    colour = COLOURS[len(ax.lines) % len(COLOURS)]
    ax.plot(h["cosine_step"], h["gradient_cosine"], color=colour, marker="o", ms=4, lw=1.5, label=label)
    low = min(h["gradient_cosine"])
    ax.set_ylim(
        min(low - 0.05 * (1 - low) - 0.002, ax.get_ylim()[0]) if len(ax.lines) > 1 else low - 0.1 * (1 - low) - 0.002,
        1 + 0.05 * (1 - low),
    )
    ax.set_xlabel("training step")
    ax.set_ylabel("cosine to the exact gradient")
    ax.grid(alpha=0.25)
    if label is not None:
        ax.legend(frameon=False)
    fit_letters(ax)
    return ax


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Return the exponential mean, with its start corrected."""
    mean, total, out = 0.0, 0.0, []
    for v in values:
        mean, total = weight * mean + (1 - weight) * v, weight * total + (1 - weight)
        out.append(mean / total)
    return out
