"""Any number a block, over the tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hbll_seq.errors import InputError
from hbll_seq.plot.style import axes, fit_letters, inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    ax = axes(ax, (7.2, 3.2))
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
    width = inches(ax)[0]
    least = 20 / 72 / width * n  # blocks as wide as four figures of 7 points
    for level, i, j, v in nodes:
        colour = cmap(norm(v))
        box = Rectangle((i * block_size, level - 0.46), (j - i) * block_size, 0.92, fc=colour, ec="white", lw=1)
        ax.add_patch(box)
        if j - i >= least:
            light = sum(colour[:3]) > 1.5
            ax.text((i + j) / 2 * block_size, level, f"{v:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if light else "white")  # fmt: skip
    ax.set_xlim(0, n * block_size)
    ax.set_ylim(-0.6, height + 0.6)
    ax.set_yticks(range(height + 1), ["blocks"] + [f"level {k}" for k in range(1, height)] + ["root"] * (height > 0))
    ax.set_xlabel("time (steps)")
    bar = ax.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, label=label, pad=0.01)
    fit_letters(ax, width)
    fit_letters(bar.ax, width)
    return ax


def _seen(v: Any) -> bool:
    return v is not None and not (isinstance(v, float) and math.isnan(v))
