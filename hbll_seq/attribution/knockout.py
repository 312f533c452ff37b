"""Knockout: the change of the outcome's loss when the input of a block, or of a whole node, is withheld.

Fast, by the tree, bottom up. Each block withheld gives a changed state at its end. Where two nodes of a height join,
the changed states of the left one cross the right one: at most r of them, and the true one, rolled with the real
cell, the others by secant jumps, linear models of the composed maps (`secant.py`). So a state crosses at most
ceil(log2 n) siblings, and at most (r + 1) n ceil(log2 n) / 2 block rolls do for all 2 n nodes; rolled one by one to
the end it is n^2 / 2 for the blocks alone, and as many again for the nodes. The loss is then evaluated on every changed
final state: it is never linearised.

Exact: all states rolled, through every block after their own.
"""

import torch
from torch import Tensor

from hbll_seq.attribution.secant import cross
from hbll_seq.attribution.state_maps import Chain
from hbll_seq.attribution.withheld import Way


def knocked_out(chain: Chain, way: Way, most: int | None) -> list[Tensor]:
    """Final states with each node withheld: one `(nodes of that height, B, S)` a height.

    Args:
        chain: see `Chain`.
        way: what stands in.
        most: r, states rolled a crossing; None rolls all (exact).
    """
    n = chain.count
    levels = (n - 1).bit_length()
    absent = chain.states[n].expand((1 << levels) - n, -1, -1)  # nothing withheld, nothing to cross
    # (nodes, p, B, S): changed states at each node's end
    population = torch.cat([chain.withheld([(i, i + 1) for i in range(n)], way), absent]).unsqueeze(1)
    for height in range(levels):
        left, right = population[::2], population[1::2]
        width = 1 << height
        starts = [(2 * k + 1) * width for k in range(left.shape[0])]
        spans = [(i, min(i + width, n)) for i in starts if i < n]
        crossed = torch.cat([cross(chain, spans, left[: len(spans)], most), left[len(spans) :]])
        whole = [(2 * k * width, min(2 * (k + 1) * width, n)) for k in range(left.shape[0]) if 2 * k * width < n]
        own = torch.cat([chain.withheld(whole, way), chain.states[n].expand(left.shape[0] - len(whole), -1, -1)])
        population = torch.cat([crossed, right, own.unsqueeze(1)], 1)
    return _by_height(population[0], levels, n)


def _by_height(final: Tensor, levels: int, n: int) -> list[Tensor]:
    """`(2^(levels+1) - 1, B, S)` in the order the levels joined them: sorted into heights, absent nodes cut off."""

    def order(height: int, index: int) -> list[tuple[int, int]]:
        if height == 0:
            return [(0, index)]
        return [*order(height - 1, 2 * index), *order(height - 1, 2 * index + 1), (height, index)]

    rows: list[list[Tensor]] = [[] for _ in range(levels + 1)]
    for (height, index), state in zip(order(levels, 0), final, strict=True):
        if index << height < n:
            rows[height].append(state)
    return [torch.stack(row) for row in rows]
