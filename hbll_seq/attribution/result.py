"""Results: `Credit`, what `credit` returns, and `LagMap`, what `lag_map` returns."""

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
            (posterior: the last node of a height may lack a midpoint).
        loss: `(B,)` the outcome's loss with nothing withheld.
        block_size: steps a block K (1 module for layered networks).
        steps: steps up to and including the outcome's, T (modules for layered networks).
        outcome: the step whose loss is explained.
        unit: of `nodes`.
        axis: "step", or "module" for layered networks.
    """

    kind: str
    nodes: tuple[Tensor, ...]
    loss: Tensor
    block_size: int
    steps: int
    outcome: int
    unit: str
    axis: str

    @property
    def block(self) -> Tensor:
        """Credit of the blocks `(B, n)`, `nodes[0]`."""
        return self.nodes[0]

    def span(self, height: int, index: int) -> tuple[int, int]:
        """Return the first step (module, from 0) of a node and the one after its last."""
        width = self.block_size << height
        return index * width, min((index + 1) * width, self.steps)

    def peak(self) -> Tensor:
        """Return the block with the most credit, `(B,)` int64."""
        return self.block.nan_to_num(nan=-float("inf")).argmax(1)


class LagMap(NamedTuple):
    """Credit from every block to the outcomes in every block.

    Attributes:
        values: `(B, n, n)` float64, row i the withheld block, column j the block whose loss changes (mean over its
            counted steps; for one label a sequence: the label's loss read at the end of block j).
            Exactly zero where j < i; NaN in columns without any target.
        block_size: as in `Credit`.
        steps: as in `Credit`.
        unit: of `values`.
    """

    values: Tensor
    block_size: int
    steps: int
    unit: str


def node_sums(values: Tensor, tree: Tree) -> list[Tensor]:
    """Sum values of steps (modules) `(B, T)` over every node: `(B, nodes)` a height."""
    spans = [[tree.span(height, k) for k in range(tree.nodes(height))] for height in range(tree.levels + 1)]
    return [torch.stack([values[:, i:j].sum(1) for i, j in row], 1) for row in spans]
