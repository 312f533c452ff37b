"""A Gantt chart of the three executions of one update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hbll_seq.plot.style import COLOURS, axes, fit_letters, inches, points
from hbll_seq.tree import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bar = tuple[float, float, float, float, str]  # start, width, lower and upper end, kind
KINDS = {"nothing kept": COLOURS[5], "forward": COLOURS[0], "backward": COLOURS[1], "scan": COLOURS[4]}
MANY = 32  # from so many blocks on they are not drawn one by one


def schedule(steps: int, block_size: int, *, sweeps: int = 2, corrections: int = 1, ax: Axes | None = None) -> Axes:
    """Draw one layer's update over sequential depth, with as many processors as it can use.

    From above: in order (`execution="sequential"`, and backpropagation through time), exact boundaries and then all
    blocks at once ("exact-forward"), and sweeps with all blocks at once ("parallel", whose total is `Tree.depth`).

    Args:
        steps: T.
        block_size: K.
        sweeps: consistency sweeps S of "parallel".
        corrections: feedback corrections c.
        ax: axes to draw on.
    """
    tree = Tree(steps, block_size)
    ax = axes(ax, (8.0, 4.6))
    n = tree.blocks
    rows = {
        "sequential": _in_order(tree),
        "exact-\nforward": _exact_forward(tree, corrections),
        "parallel": _parallel(tree, sweeps, corrections),
    }
    size, longest = points(inches(ax)[0], 9), 2 * steps
    for i, bars in enumerate(reversed(rows.values())):
        low = 1.3 * n * i
        _draw(ax, bars, low, n)
        end = max(start + width for start, width, *_ in bars)
        longest = max(longest, round(end))
        less = "" if end >= 2 * steps else f",\n{2 * steps / end:.1f} times less"
        beside = end < 1.6 * steps
        x, y = (end + 0.02 * steps, low + n / 2) if beside else (steps, low + 0.12 * n)
        ax.text(x, y, f"{end:,.0f} in sequence{less}", va="center", ha="left" if beside else "center", fontsize=size)
    ax.set_xlim(0, longest)
    ax.set_ylim(-0.1 * n, 1.3 * n * 2 + 1.1 * n)
    ax.set_yticks([1.3 * n * i + n / 2 for i in range(3)], list(reversed(rows)))
    ax.set_xlabel("sequential depth (steps and scan levels)")
    _legend(ax)
    fit_letters(ax)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _in_order(tree: Tree) -> list[Bar]:
    """List the bars of forward and back, block after block."""
    bars: list[Bar] = []
    for i in range(tree.blocks):
        first, last = tree.span(0, i)
        bars.append((first, last - first, i, i + 1, "forward"))
        bars.append((2 * tree.steps - last, last - first, i, i + 1, "backward"))
    return bars


def _exact_forward(tree: Tree, corrections: int) -> list[Bar]:
    """List the bars of boundaries by one roll in order, then a local pass and the messages with all blocks at once."""
    if tree.blocks == 1:
        return _in_order(tree)
    ends = [tree.span(0, i) for i in range(tree.blocks - 1)]
    bars: list[Bar] = [(first, last - first, i, i + 1, "nothing kept") for i, (first, last) in enumerate(ends)]
    return bars + _phases(tree, ends[-1][1], ["forward", *_back(corrections)])


def _parallel(tree: Tree, sweeps: int, corrections: int) -> list[Bar]:
    """List the bars of sweeps, a local pass and the messages with all blocks at once."""
    if tree.blocks == 1:
        return _in_order(tree)
    return _phases(tree, 0, ["nothing kept", "scan"] * sweeps + ["forward", *_back(corrections)])


def _back(corrections: int) -> list[str]:
    return ["backward", "scan", "backward"] + ["scan", "backward"] * corrections


def _phases(tree: Tree, now: int, phases: list[str]) -> list[Bar]:
    """List the bars of all blocks at once, phase after phase from `now` on."""
    n, bars = tree.blocks, list[Bar]()
    for what in phases:
        width = tree.levels if what == "scan" else tree.block
        if what == "scan":
            bars += [(now + level, 1, 0, n, what) for level in range(width)]  # one bar a level of the tree
        else:
            bars += [(now, width, i, i + 1, what) for i in range(n)] if n <= MANY else [(now, width, 0, n, what)]
        now += width
    return bars


def _draw(ax: Axes, bars: list[Bar], below: float, blocks: int) -> None:
    from matplotlib.patches import Rectangle

    tall = inches(ax)[1] * 72 / (4 * blocks)  # of one block, in points
    edge = min(0.6, 0.15 * tall) if blocks <= MANY else 0
    for start, width, low, high, what in bars:
        lw = 0 if what == "scan" else edge  # a level is very thin beside a roll: an edge would hide it
        place = (start, below + low)
        ax.add_patch(Rectangle(place, width, high - low, fc=KINDS[what], ec="white", lw=lw))


def _legend(ax: Axes) -> None:
    from matplotlib.patches import Patch

    names = ("forward, nothing kept", "forward", "backward", "scan level")
    columns = 2 if inches(ax)[0] < 5 else 4
    ax.legend(
        [Patch(fc=KINDS[kind]) for kind in KINDS], names, frameon=False, ncols=columns, loc="lower center",
        bbox_to_anchor=(0.45, 1.0), handlelength=1.0, handletextpad=0.5, columnspacing=1.0,
    )  # fmt: skip
