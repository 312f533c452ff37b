"""Every figure. Each function draws on `ax` only (or on new axes) and returns the Axes.

Colours are the Okabe-Ito palette and viridis/cividis maps, which colour-blind readers can tell apart.
matplotlib is imported on first use: a script that plots nothing never waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hbll_seq.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hbll_seq.credit import Credit
    from hbll_seq.history import History
    from hbll_seq.path_costs import PathCost

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def _axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def learning_curve(
    history: History, *, ax: Axes | None = None, label: str | None = None, colour: str | None = None
) -> Axes:
    """Training loss (thin) and validation loss (marked) over steps."""
    ax = _axes(ax)
    h = history.history
    colour = colour or COLOURS[len(ax.lines) // 2 % len(COLOURS)]
    name = "" if label is None else f"{label}: "
    ax.plot(h["step"], _smooth(h["loss"]), color=colour, lw=1, alpha=0.6, label=f"{name}training")
    if h.get("val_loss"):
        ax.plot(h["val_step"], h["val_loss"], color=colour, lw=2, marker="o", ms=4, label=f"{name}held out")
    ax.set_xlabel("training step")
    ax.set_ylabel("mean squared error" if history.config.get("objective") == "mse" else "loss (nats)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return ax


def _seen(v: Any) -> bool:
    return v is not None and not (isinstance(v, float) and math.isnan(v))


def _smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential mean with the start corrected."""
    mean, total, out = 0.0, 0.0, []
    for v in values:
        mean, total = weight * mean + (1 - weight) * v, weight * total + (1 - weight)
        out.append(mean / total)
    return out


def paths(costs: Sequence[PathCost], *, ax: Axes | None = None, total: int | None = None) -> Axes:
    """Quality of every path over its cost; the best at each number of modules is joined by a line.

    Args:
        costs: from `evaluate_paths`.
        ax: where to draw.
        total: modules of the full path, to mark it; None for the longest path there is.
    """
    ax = _axes(ax)
    classify = not math.isnan(costs[0].accuracy)
    values = [100 * c.accuracy if classify else c.loss for c in costs]
    counts = [len(c.nodes) for c in costs]
    ax.scatter(counts, values, s=18, color=COLOURS[0], alpha=0.6, linewidths=0, label="every path")
    best = {
        n: (max if classify else min)(v for v, m in zip(values, counts, strict=True) if m == n) for n in set(counts)
    }
    ax.plot(sorted(best), [best[n] for n in sorted(best)], color=COLOURS[1], lw=1.5, label="best of that length")
    longest = max(counts) if total is None else total
    for n, v in zip(counts, values, strict=True):
        if n == longest:
            ax.scatter([n], [v], s=60, facecolors="none", edgecolors="black", label="full path")
    ax.set_xlabel("modules on the path")
    ax.set_ylabel("held-out accuracy (%)" if classify else "held-out loss")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return ax


def tree(
    values: Sequence[float], *, ax: Axes | None = None, label: str = "mean loss (nats)", block_size: int = 1
) -> Axes:
    """A number per block, and its mean over every node above: leaves at the bottom, the root on top.

    Args:
        values: one number a block, in order of time.
        ax: axes to draw on.
        label: of the colour bar, with unit.
        block_size: steps a block, for the time axis.
    """
    ax = _axes(ax, (7.2, 3.2))
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    n = len(values)
    if n == 0:
        raise InputError("values", "none", "one number a block")
    height = max(n - 1, 0).bit_length()
    nodes = []
    for level in range(height + 1):
        for i in range(0, n, 2**level):
            part = [v for v in values[i : i + 2**level] if _seen(v)]
            if part:
                nodes.append((level, i, min(i + 2**level, n), sum(part) / len(part)))
    norm = Normalize(min(v for *_, v in nodes), max(v for *_, v in nodes))
    cmap = colormaps["cividis"]
    for level, i, j, v in nodes:
        colour = cmap(norm(v))
        box = Rectangle((i * block_size, level - 0.46), (j - i) * block_size, 0.92, fc=colour, ec="white", lw=1)
        ax.add_patch(box)
        if (j - i) * 14 >= n:
            light = sum(colour[:3]) > 1.5
            ax.text((i + j) / 2 * block_size, level, f"{v:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if light else "white")  # fmt: skip
    ax.set_xlim(0, n * block_size)
    ax.set_ylim(-0.6, height + 0.6)
    ax.set_yticks(range(height + 1), ["blocks"] + [f"level {k}" for k in range(1, height)] + ["root"] * (height > 0))
    ax.set_xlabel("time (steps)")
    ax.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, label=label, pad=0.01)
    return ax


def credit(result: Credit, *, row: int = 0, text: str | None = None, ax: Axes | None = None) -> Axes:
    """Credit of one sequence: nodes of the tree over time, and the blocks below them.

    Args:
        result: from `hbll_seq.credit`.
        row: which sequence of the batch.
        text: the sequence as text, one character a step, written under the blocks where it fits.
        ax: axes to draw on.
    """
    ax = _axes(ax, (8.0, 3.6))
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    k, n = result.block_size, result.block.shape[1]
    cmap = colormaps["viridis"]
    blocks: Tensor = result.block[row].abs()
    every = [v for v in [*result.boundary[row].tolist(), *blocks.tolist()] if v > 0]
    top = max(every, default=1.0)
    norm = LogNorm(max(top * 1e-4, min(every, default=1e-4)), top * (1 + 1e-6), clip=True)
    heights = result.heights.tolist()
    for i, (h, v) in enumerate(zip(heights, result.boundary[row].tolist(), strict=True), 1):
        start, stop = (i - 2**h) * k, min((i + 2**h) * k, result.steps)
        ax.add_patch(Rectangle((start, h + 0.54), stop - start, 0.92, fc=cmap(norm(v)), ec="white", lw=1))
        ax.plot([i * k, i * k], [h + 0.62, h + 0.78], color="white", lw=1)
    for i, v in enumerate(blocks.tolist()):
        stop = min((i + 1) * k, result.steps)
        ax.add_patch(Rectangle((i * k, -0.46), stop - i * k, 0.92, fc=cmap(norm(v)), ec="white", lw=1))
    height = max(heights, default=-1) + 1
    ax.set_xlim(0, result.steps)
    ax.set_ylim(-0.6, height + 0.6)
    ax.set_yticks(
        range(height + 1), ["written\nby block"] + [f"nodes of\n{2 ** (h + 1)} blocks" for h in range(height)]
    )
    ax.tick_params(axis="y", labelsize=8)
    if text is not None and n * k <= 24 * 24:
        marks = [i * k for i in range(n)]
        parts = [text[i : i + k].replace("\n", "↵").replace(" ", "·") for i in marks]
        width = max(6, 96 // n)
        ax.set_xticks([i + k / 2 for i in marks], [_wrap(p, width) for p in parts], fontsize=6, family="monospace")
        ax.set_xlabel("text, one column a block (time runs right)")
    else:
        ax.set_xlabel("time (steps)")
    ax.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, label="credit (nats)", pad=0.01)
    return ax


def _wrap(s: str, width: int) -> str:
    return "\n".join(s[i : i + width] for i in range(0, len(s), width))
