"""When what runs: the levels of one training step as a Gantt chart, beside backpropagation through time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbll_seq.plot.style import COLOURS, axes, fit_letters, inches, points
from hbll_seq.tree import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def schedule(steps: int, block_size: int, *, sweeps: int = 2, corrections: int = 1, ax: Axes | None = None) -> Axes:
    """One layer's step over sequential depth: what runs after what, however many processors there are.

    Rolls take `block_size`, scans ceil(log2 n); the total is `Tree.depth`. Backpropagation through time takes 2 T.

    Args:
        steps: T.
        block_size: K.
        sweeps: consistency sweeps S.
        corrections: feedback corrections c.
        ax: axes to draw on.
    """
    from matplotlib.patches import Patch, Rectangle

    tree = Tree(steps, block_size)
    ax = axes(ax, (8.0, 3.8))
    n, k = tree.blocks, tree.block
    colours = {"forward": COLOURS[0], "backward": COLOURS[1], "scan": COLOURS[4]}

    tall = inches(ax)[1] * 72 / (2.5 * n)  # of one block, in points
    edge = min(0.6, 0.15 * tall) if n <= 32 else 0

    def bar(start: float, width: float, low: float, high: float, what: str) -> None:
        lw = 0 if what == "scan" else edge  # a level is a hair's breadth beside a roll: an edge would hide it
        ax.add_patch(Rectangle((start, low), width, high - low, fc=colours[what], ec="white", lw=lw))

    upper = 1.25 * n  # the blocks of BPTT are drawn above those of hbll
    for i in range(n):
        first, last = tree.span(0, i)
        bar(first, last - first, upper + i, upper + i + 1, "forward")
        bar(2 * steps - last, last - first, upper + i, upper + i + 1, "backward")
    now = 0
    phases = (
        ["forward", "scan"] * sweeps + ["forward", "backward", "scan", "backward"] + ["scan", "backward"] * corrections
    )
    for what in phases if n > 1 else ["forward", "backward"]:
        width = tree.levels if what == "scan" else k
        if what == "scan":
            for level in range(width):  # one bar a level of the tree
                bar(now + level, 1, 0, n, what)
        else:
            for i in range(n if n <= 32 else 1):
                bar(now, width, i, i + 1 if n <= 32 else n, what)
        now += width
    total = tree.depth(sweeps, corrections)
    size = points(inches(ax)[0], 9)
    said = f"{total:,} in sequence,\n{2 * steps / total:.1f} times less"
    ax.text(now + 0.02 * steps, n / 2, said, va="center", fontsize=size)
    ax.text(steps, upper + 0.12 * n, f"{2 * steps:,} in sequence", va="center", ha="center", fontsize=size)
    ax.set_xlim(0, max(2 * steps, now * 1.3))
    ax.set_ylim(-0.1 * n, upper + 1.1 * n)
    ax.set_yticks([n / 2, upper + n / 2], [f"hbll\n{n} blocks\nat once", f"bptt\n{n} blocks\nin turn"])
    ax.set_xlabel("sequential depth (steps and scan levels)")
    names = {"forward": "forward roll", "backward": "backward roll", "scan": "scan level"}
    ax.legend(
        [Patch(fc=c) for c in colours.values()], names.values(), frameon=False, ncols=3, loc="lower center",
        bbox_to_anchor=(0.5, 1.0), handlelength=1.0, handletextpad=0.5, columnspacing=1.0,
    )  # fmt: skip
    fit_letters(ax)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax
