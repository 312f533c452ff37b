"""What every path of a layered network costs, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hbll_seq.plot.style import COLOURS, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hbll_seq.path_costs import PathCost


def paths(costs: Sequence[PathCost], *, ax: Axes | None = None, total: int | None = None) -> Axes:
    """Quality of every path over its cost; the best at each number of modules is joined by a line.

    Args:
        costs: from `evaluate_paths`.
        ax: where to draw.
        total: modules of the full path, to mark it; None for the longest path there is.
    """
    ax = axes(ax)
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
    low, high = ax.get_ylim()
    share = min(0.5, 0.8 * ax.figure.dpi / ax.get_window_extent().height)  # of 0.8 inches, for the legend
    ax.set_ylim(low - share / (1 - share) * (high - low), high)  # hundreds of paths leave no corner free: make one
    ax.legend(frameon=False, loc="lower right")
    return ax
