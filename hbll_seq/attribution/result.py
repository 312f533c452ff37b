"""Results: `Credit`, what `credit` returns, and `LagMap`, what `lag_map` returns."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.tree import Tree


class Credit(NamedTuple):
    """Credit of every node of the tree for one outcome of each sequence.

    Attributes:
        kind: "posterior", "knockout" or "gradient".
        nodes: one tensor a height, `nodes[h]` `(B, ceil(n / 2^h))` float64: node k of height h covers blocks
            k 2^h .. (k+1) 2^h - 1; height 0 are the n blocks, the last entry is the root. NaN where a node has none
            (after a sequence's outcome; posterior: the last node of a height may lack a midpoint).
        loss: `(B,)` the outcome's loss with nothing withheld.
        block_size: steps a block K (1 module for layered networks).
        steps: steps up to and including the last outcome's, T (modules for layered networks).
        outcome: the step whose loss is explained, the last of them where sequences have different ones.
        unit: of `nodes`.
        axis: "step", or "module" for layered networks.
        lengths: `(B,)` int64, steps up to and including each sequence's own outcome.
        method: how the values were found. Knockout: "exact", all rolled by the real cell; "fast", most predicted
            and a sample of them checked; "exact instead of fast", where that sample disagreed. "messages" (posterior),
            "backpropagation" (gradient).
        error: knockout: the largest error of the fast way among the nodes that were checked, in `unit`; 0 where it
            was not tried. NaN for other kinds.
    """

    kind: str
    nodes: tuple[Tensor, ...]
    loss: Tensor
    block_size: int
    steps: int
    outcome: int
    unit: str
    axis: str
    lengths: Tensor
    method: str
    error: float

    @property
    def block(self) -> Tensor:
        """Credit of the blocks `(B, n)`, `nodes[0]`."""
        return self.nodes[0]

    def span(self, height: int, index: int, row: int | None = None) -> tuple[int, int]:
        """Return the first step (module, from 0) of a node and the one after its last; in sequence `row`, if given."""
        width, steps = self.block_size << height, self.steps
        if row is not None and self.axis == "step":
            steps = int(self.lengths[row])
        return min(index * width, steps), min((index + 1) * width, steps)

    def peak(self) -> Tensor:
        """Return the block with the most credit, `(B,)` int64."""
        return self.block.nan_to_num(nan=-float("inf")).argmax(1)


class LagMap(NamedTuple):
    """Credit from every block to the outcomes in every block.

    Attributes:
        values: `(B, n, n)` float64, row i the withheld block, column j the block whose loss changes (mean over its
            counted steps; for one label a sequence: the label's loss read at the end of block j).
            Exactly zero where j < i; NaN in columns without any target, and after a sequence's end.
        block_size: as in `Credit`.
        steps: as in `Credit`.
        unit: of `values`.
        method: as in `Credit`, of the knockout.
        error: as in `Credit`.
    """

    values: Tensor
    block_size: int
    steps: int
    unit: str
    method: str
    error: float


def together(parts: list[tuple[Tensor, Credit]]) -> Credit:
    """Put the credit of sequences of several lengths together, the longest first.

    A sequence whose tree is lower has its root's credit at the first node of every further height.

    Args:
        parts: which rows of the batch, and their credit.
    """
    longest = parts[0][1]
    count = sum(len(rows) for rows, _ in parts)
    nodes = tuple(values.new_full((count, values.shape[1]), math.nan) for values in longest.nodes)
    loss, lengths = longest.loss.new_empty(count), longest.lengths.new_empty(count)
    for rows, one in parts:
        for height, values in enumerate(nodes):
            own = one.nodes[min(height, len(one.nodes) - 1)]
            values[rows, : own.shape[1]] = own
        loss[rows], lengths[rows] = one.loss, one.lengths
    methods = {one.method for _, one in parts}
    method = next((m for m in ("fast", "exact instead of fast") if m in methods), longest.method)
    error = max(one.error for _, one in parts)
    return longest._replace(nodes=nodes, loss=loss, lengths=lengths, method=method, error=error)


def node_sums(values: Tensor, tree: Tree) -> list[Tensor]:
    """Sum values of steps (modules) `(B, T)` over every node: `(B, nodes)` a height."""
    spans = [[tree.span(height, k) for k in range(tree.nodes(height))] for height in range(tree.levels + 1)]
    return [torch.stack([values[:, i:j].sum(1) for i, j in row], 1) for row in spans]
