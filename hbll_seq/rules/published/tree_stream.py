"""The tree read-out, streamed: one step at a time in O(log T) memory.

A fold reads its block of inputs through one linear map. So a block in progress needs only the running sum of its
inputs' contributions; the inputs themselves are not kept. State h_n needs its parent h_{n - 2^d}, which is the last
state of a greater height: one state a height is enough, as in a binary counter.
"""

import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.published.folds import Folds


class TreeStream:
    """Predictions of the tree read-out as inputs come in.

    Args:
        model: the trained model.
        folds: its cells of greater heights, `rule.folds`.

    Attributes:
        time: steps read so far.
    """

    def __init__(self, model: SequenceModel, folds: Folds) -> None:
        self._model, self._folds, self.time = model, folds, 0
        self._cells = [folds.cell(model, d) for d in range(folds.heights)] or [model.cells[0]]
        self._state: dict[int, Tensor] = {}  # by height, the last state of that height; the initial one above all
        self._sum: dict[int, Tensor] = {}  # by height, the projection of the block in progress so far

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """Read one input `(B,)` or `(B, D)` and predict `(B, V)`.

        Raises:
            InputError: more steps than the folds were made for.
        """
        if self.time >= self._folds.longest:
            raise InputError("x", f"step {self.time + 1}", f"at most longest={self._folds.longest} steps")
        x = self._model.embed(x)
        first = self._cells[0]
        if not self._state:
            self._state[len(self._cells)] = first.initial(x.shape[0], x)
        # the last state of all: the one of the lowest height is the newest, since lower ones are dropped below
        out = self._model.readout(first.output(first.step(x, self._state[min(self._state)])))
        now = self.time + 1
        for d in range(len(self._cells)):
            at = self.time % (1 << d)
            part = self._part(d, x, at)
            self._sum[d] = part if at == 0 else self._sum[d] + part
        height = (now & -now).bit_length() - 1
        if height < len(self._cells):
            parent = self._state[min(h for h in self._state if h > height)]
            new = self._cells[height].advance(self._sum[height], parent).state
            self._state = {h: s for h, s in self._state.items() if h > height} | {height: new}
        self.time = now
        return out

    def _part(self, height: int, x: Tensor, at: int) -> Tensor:
        """Return the contribution of input `at` of a block to the block's projection; the first includes the bias."""
        cell, width = self._cells[height], x.shape[1]
        block = x.new_zeros(x.shape[0], width << height)
        block[:, at * width : (at + 1) * width] = x
        part = cell.project(block)
        return part if at == 0 else part - cell.project(torch.zeros_like(block))
