"""Cost and quality of every path of a layered network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hbll_seq.errors import InputError
from hbll_seq.plot.style import COLOURS, axes, fit_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hbll_seq.paths.costs import PathCost

COSTS: dict[str, tuple[str, Callable[[PathCost], float]]] = {
    "modules": ("modules on the path", lambda c: len(c.nodes)),
    "parameters": ("parameters on the path", lambda c: c.parameters),
    "flops": ("arithmetic of one input (flop)", lambda c: c.flops),
}


def paths(
    costs: Sequence[PathCost], *, over: str = "modules", total: int | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the quality of every path over its cost; a line joins the best at each cost.

    Args:
        costs: from `evaluate_paths`.
        over: the cost: "modules" (those that wait for one another), "parameters" or "flops".
        total: modules of the full path, to mark it; None for the longest path in `costs`.
        ax: axes to draw on.

    Raises:
        InputError: no costs, an unknown `over`.
    """
    if not costs:
        raise InputError("costs", "none", "at least one path")
    if over not in COSTS:
        raise InputError("over", repr(over), f"one of {tuple(COSTS)}")
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ax = axes(ax)
    label, cost = COSTS[over]
    classify = not math.isnan(costs[0].accuracy)
    values = [100 * c.accuracy if classify else c.loss for c in costs]
    spent = [cost(c) for c in costs]
    ax.scatter(spent, values, s=18, color=COLOURS[0], alpha=0.6, linewidths=0, label="every path")
    best = {n: (max if classify else min)(v for v, m in zip(values, spent, strict=True) if m == n) for n in set(spent)}
    ax.plot(sorted(best), [best[n] for n in sorted(best)], color=COLOURS[1], lw=1.5, label="best at that cost")
    longest = max(len(c.nodes) for c in costs) if total is None else total
    for c, at, v in zip(costs, spent, values, strict=True):
        if len(c.nodes) == longest:
            ax.scatter([at], [v], s=60, facecolors="none", edgecolors="black", label="full path")
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 1.5M
    ax.set_ylabel("held-out accuracy (%)" if classify else "held-out mean squared error")
    ax.grid(alpha=0.25)
    ax.legend(  # hundreds of paths leave no corner free
        frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1.4, columnspacing=1.2
    )
    fit_letters(ax)
    return ax
