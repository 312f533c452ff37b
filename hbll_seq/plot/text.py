"""Credit as the background of the characters it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbll_seq.errors import InputError
from hbll_seq.plot.credits import check_top, colour_bar, label_of, outcome_of, row_of, scale, title
from hbll_seq.plot.style import axes, inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hbll_seq.attribution.result import Credit


def credit_text(
    result: Credit,
    text: str,
    *,
    row: int = 0,
    width: int | None = None,
    log: bool = True,
    bar: bool = True,
    top: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The text itself, every character on the colour of its block's credit; a frame marks the outcome's.

    Args:
        result: from `hbll_seq.credit`.
        text: one character a step, at least `result.steps` of them.
        row: which sequence of the batch.
        width: characters a line; None for what fits in letters of 7 points, at most 64, in whole blocks if it can be.
        log: colours logarithmic, as for `credit`.
        bar: draw a colour bar.
        top: as for `credit`.
        ax: axes to draw on; its ticks and frame are removed.

    Raises:
        InputError: too little text, a row that is not there.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    values, steps = row_of(result, row)[0], int(result.lengths[row])
    if len(text) < steps:
        raise InputError("text", f"{len(text)} characters", f"one a step, {steps}")
    norm, name = scale(values, result.kind == "knockout", log, check_top(top))
    cmap = colormaps[name]
    if width is None:
        width = 64 if ax is None else max(8, min(64, int(inches(ax)[0] * 72 / (0.62 * 7.0))))
        width -= width % result.block_size if result.block_size <= width else 0
    lines = -(-steps // width)
    ax = axes(ax, (8.0, 1.0 + 0.26 * lines))
    ax.set_xlim(0, width)
    ax.set_ylim(lines, 0)
    across, down = inches(ax)
    cell = 72 * min(across / width / 0.62, down / lines / 1.25)  # points
    for i, letter in enumerate(text[:steps]):
        colour = cmap(norm(values[i // result.block_size]))
        x, y = i % width, i // width
        ax.add_patch(Rectangle((x, y + 0.04), 1, 0.92, fc=colour, ec="none"))
        shown = {"\n": "↵", " ": ""}.get(letter, letter)
        dark = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.5
        ax.text(x + 0.5, y + 0.5, shown, ha="center", va="center", family="monospace",
                fontsize=max(min(cell, 12.0), 6.0), color="white" if dark else "black")  # fmt: skip
    last = steps - 1
    ax.add_patch(Rectangle((last % width, last // width + 0.04), 1, 0.92, fc="none", ec="black", lw=1.2, clip_on=False))
    title(ax, outcome_of(result, row))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_frame_on(False)
    if bar:
        label = f"{label_of(result)}, blocks of {result.block_size}"
        colour_bar(ax, norm, name, label, location="bottom", aspect=50, shrink=0.7, pad=0.03)
    return ax
