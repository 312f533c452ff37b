"""Knockout: final states with the input of a block, or of a whole node, withheld.

The fast way goes through the tree, bottom up. Each withheld block gives a changed state at its end. Where two nodes of
a height join, the changed states of the left one cross the right one. At most r of them, and the true one, are rolled
with the real cell; the others are predicted from these by secants, a linear model of the composed maps (`secant.py`). A
state crosses at most ceil(log2 n) siblings, so at most (r + 1) n ceil(log2 n) / 2 block rolls serve all 2 n nodes.
Rolling every state to the end takes n^2 / 2 for the blocks alone, and as many again for the nodes. `credit` evaluates
the loss on every final state; the loss is never linearised.

The exact way rolls all states through every block after their own.
"""

import torch
from torch import Tensor

from hbll_seq.attribution.secant import cross, through
from hbll_seq.attribution.state_maps import StateMaps
from hbll_seq.attribution.withheld import StandIn


def knocked_out(maps: StateMaps, by: StandIn, most: int | None) -> list[Tensor]:
    """Return the final states with each node withheld: one `(nodes of that height, B, S)` a height.

    Args:
        maps: see `StateMaps`.
        by: replaces the input of a withheld node.
        most: r, states rolled at a crossing; None rolls all (exact).
    """
    n = maps.count
    levels = (n - 1).bit_length()
    absent = maps.states[n].expand((1 << levels) - n, -1, -1)  # nothing withheld, nothing to cross
    # (nodes, p, B, S): changed states at each node's end
    population = torch.cat([maps.withheld([(i, i + 1) for i in range(n)], by), absent]).unsqueeze(1)
    for height in range(levels):
        left, right = population[::2], population[1::2]
        width = 1 << height
        starts = [(2 * k + 1) * width for k in range(left.shape[0])]
        spans = [(i, min(i + width, n)) for i in starts if i < n]
        crossed = torch.cat([cross(maps, spans, left[: len(spans)], most), left[len(spans) :]])
        whole = [(2 * k * width, min(2 * (k + 1) * width, n)) for k in range(left.shape[0]) if 2 * k * width < n]
        own = torch.cat([maps.withheld(whole, by), maps.states[n].expand(left.shape[0] - len(whole), -1, -1)])
        population = torch.cat([crossed, right, own.unsqueeze(1)], 1)
    return _by_height(population[0], levels, n)


def knocked_out_exactly(maps: StateMaps, by: StandIn, height: int, numbers: list[int]) -> Tensor:
    """Return the final states `(q, B, S)` with each of some nodes of a height withheld, `numbers` ascending."""
    n, width = maps.count, 1 << height
    spans = [(k * width, min((k + 1) * width, n)) for k in numbers]
    states = maps.withheld(spans, by).unsqueeze(1)  # (q, 1, B, S)
    return through(maps, [(end, n) for _, end in spans], states)[0][:, 0]


def _by_height(final: Tensor, levels: int, n: int) -> list[Tensor]:
    """Sort `(2^(levels+1) - 1, B, S)` from the order in which levels joined them into heights; cut off absent nodes."""

    def order(height: int, index: int) -> list[tuple[int, int]]:
        if height == 0:
            return [(0, index)]
        return [*order(height - 1, 2 * index), *order(height - 1, 2 * index + 1), (height, index)]

    rows: list[list[Tensor]] = [[] for _ in range(levels + 1)]
    for (height, index), state in zip(order(levels, 0), final, strict=True):
        if index << height < n:
            rows[height].append(state)
    return [torch.stack(row) for row in rows]
