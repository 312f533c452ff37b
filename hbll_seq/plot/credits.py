"""Credit over the tree, and over lags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hbll_seq.data.scalars import as_integer, positive
from hbll_seq.errors import InputError
from hbll_seq.plot.style import axes, fit_letters, inches, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

    from hbll_seq.attribution.result import Credit, LagMap

SIGNED, POSITIVE, DECADES = "PuOr_r", "viridis", 1e3  # purple against orange: told apart by every kind of colour vision
FLOOR = 0.01  # colours reach at least this far: a figure in which nothing matters stays pale


def scale(values: np.ndarray, signed: bool, log: bool = True, top: float | None = None) -> tuple[Normalize, str]:
    """Norm and colour map; signed values symmetric about zero.

    Args:
        values: NaN is left out.
        signed: credit that can be negative.
        log: logarithmic over three decades below the largest, linear below that; else linear.
        top: what the colours end at; None for the largest value, at least `FLOOR` of signed credit.
    """
    from matplotlib.colors import Normalize, SymLogNorm

    if top is None:
        top = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        top = max(top, FLOOR) if signed else top or 1.0
    low = -top if signed else 0.0
    # a decade of the linear part is as wide as one of the others
    linear = max(top / DECADES, FLOOR / 10) if signed else top / DECADES
    norm = SymLogNorm(linear, linscale=0.5, vmin=low, vmax=top) if log else Normalize(low, top)
    return norm, SIGNED if signed else POSITIVE


def check_top(top: float | None) -> float | None:
    """Refuse a `top` that is no positive number."""
    return None if top is None else positive("top", top, ", or None")


def colour_bar(ax: Axes, norm: Normalize, name: str, label: str, **options: Any) -> None:
    """A colour bar whose label fits beside it and whose ticks do not run into each other about zero."""
    from matplotlib import colormaps, rcParams
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import SymLogNorm

    flat = options.get("location") in ("bottom", "top")
    width, height = inches(ax)
    length = 72 * options.get("shrink", 1.0) * (width if flat else height)  # of the bar, in points
    if not flat:
        label = _in_lines(label, _letters(ax))
    bar = ax.figure.colorbar(ScalarMappable(norm, colormaps[name]), ax=ax, label=label, **options)
    fit_letters(bar.ax, width)
    if isinstance(norm, SymLogNorm):
        high = np.floor(np.log10(float(norm.vmax or 1.0)) + 1e-9)
        plain = -1 <= high <= 3
        room = points(width, rcParams["ytick.labelsize"]) * (1.3 if not flat else 3.6 if plain else 2.6)
        ticks, at = [], float(norm(0.0)) + room / length
        for exponent in (high - 2, high - 1, high):  # from zero outwards, while there is room
            if at <= float(norm(10.0**exponent)):
                ticks.append(10.0**exponent)
                at = float(norm(10.0**exponent)) + room / length
        both = [*(-t for t in reversed(ticks)), 0.0, *ticks] if (norm.vmin or 0.0) < 0 else [0.0, *ticks]
        bar.set_ticks(both, labels=[_number(t, plain) for t in both])
        bar.minorticks_off()


def _letters(ax: Axes) -> int:
    """How many letters of a label fit along the height of `ax`."""
    from matplotlib import rcParams

    width, height = inches(ax)
    return int(72 * height / (0.55 * points(width, rcParams["axes.labelsize"])))


def title(ax: Axes, words: str) -> None:
    """A title in letters that fit, in two lines where the axes are narrow."""
    from matplotlib import rcParams

    width = inches(ax)[0]
    size = points(width, rcParams["axes.labelsize"])
    ax.set_title(_in_lines(words, int(72 * 0.8 * width / (0.55 * size))), fontsize=size)


def _in_lines(label: str, most: int) -> str:
    """`label` in two lines, where one would be longer than `most` characters: broken near its middle."""
    gaps = [i for i, c in enumerate(label) if c == " "]
    if len(label) <= most or not gaps:
        return label
    i = min(gaps, key=lambda i: abs(i - len(label) / 2))
    return f"{label[:i]}\n{label[i + 1 :]}"


def _number(value: float, plain: bool) -> str:
    """A tick's label: plain figures, or a power of ten."""
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return f"{sign}{abs(value):g}" if plain or value == 0 else f"{sign}$10^{{{np.log10(abs(value)):.0f}}}$"


def row_of(result: Credit, row: int) -> list[np.ndarray]:
    """One sequence's credit, an array a height."""
    if not 0 <= row < len(result.block):
        raise InputError("row", row, f"a sequence in 0..{len(result.block) - 1}")
    return [v[row].detach().cpu().numpy() for v in result.nodes]


def label_of(result: Credit) -> str:
    """For a colour bar."""
    what = {
        "posterior": "KL(posterior || forward)",
        "knockout": "loss without it, minus loss",
        "gradient": "|gradient|",
    }
    return f"{what[result.kind]} ({result.unit})"


def loss_of(result: Credit, row: int) -> str:
    """The outcome's loss with nothing withheld, in words; posterior credit is in nats, its outcome need not be."""
    unit = "" if result.kind == "posterior" else f" {result.unit.split(' per ')[0]}"
    return f"loss {float(result.loss[row]):.3g}{unit}"


def outcome_of(result: Credit, row: int) -> str:
    """What is explained, in words."""
    where = "" if result.axis == "module" else f" at step {int(result.lengths[row]) - 1}"
    return f"outcome{where}: {loss_of(result, row)}"


def credit(
    result: Credit, *, row: int | Sequence[int] = 0, text: str | None = None, per_second: float | None = None,
    log: bool = True, bar: bool = True, top: float | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Credit of one sequence: every node of the tree over time, blocks at the bottom, the root on top.

    Args:
        result: from `hbll_seq.credit`.
        row: which sequence of the batch; of several, the trees stand above each other and share their colours.
        text: the sequence as text, one character a step, written under the blocks where it fits.
        per_second: steps a second, to label time in seconds (under a waveform: share the x axis); None for steps.
        log: colours logarithmic over three decades below the largest credit, so that small credit is seen; else linear.
        bar: draw a colour bar. Without it the x axis lines up with other axes of the same width.
        top: the credit at which the colours end, to share one scale among figures; None for the largest that is drawn,
            and at least 0.01.
        ax: axes to draw on.

    Returns:
        The axes. A triangle marks the outcome, the title has its loss. Grey: a node that has no credit.
    """
    one_row = as_integer(row)
    rows = [one_row] if one_row is not None else list(cast(Sequence[int], row))
    if not rows:
        raise InputError("row", "none", "one sequence or several")
    if len(rows) > 1 and text is not None:
        raise InputError("text", "given beside several rows", "None, or one row")
    trees, top = [row_of(result, one) for one in rows], check_top(top)
    ax = axes(ax, (8.0, 3.6 if len(rows) == 1 else 0.9 + 1.5 * len(rows)))
    norm, name = scale(np.concatenate([v for nodes in trees for v in nodes]), result.kind == "knockout", log, top)
    second = 1.0 if per_second is None else per_second
    tall, ticks, names = len(trees[0]) + 2.0, [], []
    for i, (one, nodes) in enumerate(zip(rows, trees, strict=True)):
        base = (len(rows) - 1 - i) * tall
        _boxes(ax, result, one, nodes, norm, name, second, base)
        ticks += [base + h for h in range(len(nodes))]
        names += [f"{2**h}" for h in range(len(nodes) - 1)] + [f"all {nodes[0].size}"]
        if len(rows) > 1:
            _caption(ax, f"sequence {one}: {loss_of(result, one)}", base + len(nodes) - 0.35)
    ax.set_xlim(0, result.steps / second)
    ax.set_ylim(-0.75, (len(rows) - 1) * tall + len(trees[0]) + (-0.4 if len(rows) == 1 else 1.0))
    if len(rows) > 1:  # as many ticks as there is room for: the lowest and the highest of each
        keep = [k for k, t in enumerate(names) if t == "1" or t.startswith("all")]
        ticks, names = [ticks[k] for k in keep], [names[k] for k in keep]
    else:
        title(ax, outcome_of(result, rows[0]))
    ax.set_yticks(ticks, names)
    ax.set_ylabel("blocks a node" if result.axis == "step" else "modules a node")
    fit_letters(ax)
    columns = _columns(ax, result, bar)
    if text is not None and columns >= 3 and result.axis == "step":
        _write_text(ax, result, text, columns)
    elif result.axis == "module":
        ax.set_xticks([i + 0.5 for i in range(result.steps)], [str(i + 1) for i in range(result.steps)])
        ax.set_xlabel("module")
    else:
        ax.set_xlabel("time (steps)" if per_second is None else "time (s)")
    if bar:
        colour_bar(ax, norm, name, label_of(result), pad=0.01)
    return ax


def _boxes(
    ax: Axes, result: Credit, row: int, nodes: list[np.ndarray], norm: Normalize, name: str, second: float, base: float
) -> None:  # fmt: skip
    """Draw the nodes of one tree from height `base` on, and a triangle under its outcome."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for height, values in enumerate(nodes):
        for k, v in enumerate(values):
            start, stop = (s / second for s in result.span(height, k, row))
            if stop > start:
                colour = colormaps[name](norm(v)) if np.isfinite(v) else "#d9d9d9"
                box = (start, base + height - 0.46), stop - start, 0.92
                ax.add_patch(Rectangle(*box, fc=colour, ec="#bbbbbb", lw=0.5))
    if result.axis == "step":
        at = (int(result.lengths[row]) - 0.5) / second
        ax.plot([at], [base - 0.6], marker="^", ms=5, color="black", clip_on=False, zorder=3)


def _caption(ax: Axes, words: str, height: float) -> None:
    """Write a line above one of several trees."""
    from matplotlib import rcParams

    width = inches(ax)[0]
    size = min(points(width, rcParams["xtick.labelsize"]), max(6.5, 72 * width / (0.55 * len(words))))
    said = ax.text(0.01, height, words, fontsize=size, va="bottom", ha="left", transform=ax.get_yaxis_transform())
    said.set_in_layout(False)


def _columns(ax: Axes, result: Credit, bar: bool) -> int:
    """Characters of 6.5 points that fit side by side in one block, beside a colour bar."""
    width = inches(ax)[0] - 0.5 * bar
    return int(width * 72 * result.block_size / result.steps / 4.2)


def _write_text(ax: Axes, result: Credit, text: str, width: int) -> None:
    k, n = result.block_size, result.block.shape[1]
    parts = [text[i * k : min((i + 1) * k, result.steps)].replace("\n", "↵").replace(" ", "·") for i in range(n)]
    lines = ["\n".join(p[i : i + width] for i in range(0, len(p), width)) for p in parts]
    middles = [sum(result.span(0, i)) / 2 for i in range(n)]
    ax.set_xticks(middles, lines, fontsize=6.5, family="monospace")
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("text, block by block")


def lag_map(
    result: LagMap, *, row: int | None = None, log: bool = True, bar: bool = True, top: float | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Credit from block i (rows) to the outcomes in block j (columns); empty where the outcome came before.

    Args:
        result: from `hbll_seq.lag_map`.
        row: which sequence; None for the mean over the batch.
        log: colours logarithmic, as for `credit`.
        bar: draw a colour bar.
        top: as for `credit`.
        ax: axes to draw on.
    """
    from matplotlib.ticker import MaxNLocator

    ax = axes(ax, (6.2, 4.8))
    values = result.values.nanmean(0) if row is None else result.values[row]
    shown = values.detach().cpu().numpy().copy()
    n = len(shown)
    shown[np.tril_indices(n, -1)] = np.nan
    norm, name = scale(shown, True, log, check_top(top))  # late lags are small, and count
    t = n * result.block_size
    ax.imshow(shown, norm=norm, cmap=name, extent=(0, t, t, 0), aspect="auto", interpolation="none")
    ax.set_facecolor("#eeeeee")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("time of the outcome (steps)")
    ax.set_ylabel(_in_lines("time of the block withheld (steps)", _letters(ax)))
    fit_letters(ax)
    if bar:
        colour_bar(ax, norm, name, f"loss without the block, minus loss ({result.unit})", pad=0.02)
    return ax
