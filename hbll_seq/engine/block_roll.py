"""The roll of all blocks of a layer at once, as one batched call, in groups if memory is short.

All n blocks of B sequences become N = n*B rows of one roll over K steps: row i*B + b is block i of
sequence b. Nothing in a roll crosses rows, so blocks cannot see each other here. Only boundary states and
feedback messages pass between them (`engine/solve.py`).

Groups: with `group` blocks at a time only those blocks' activations exist at once. The forward then
keeps outputs and ends, and each backward pass rolls a group again before it differentiates it
(one forward more per pass, memory independent of T but for outputs and boundaries).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hbll_seq.cells import Cell, Roll
from hbll_seq.engine.blocks import Depth
from hbll_seq.engine.gradients import added
from hbll_seq.kernels.buffers import Borrower

# first block and the block after the last, outputs (K, m*B, d), own gradients too -> gradient on these outputs
SpanLoss = Callable[[int, int, Tensor, bool], Tensor | None]


class BlockRoll(Borrower):
    """All blocks of one layer, rolled at once from given boundaries, until it is released.

    Args:
        cell: the layer's cell.
        x: `(K, n, B, D)` inputs.
        start: `(n, B, S)` state at each block's start.
        keep: False when only `end`, `carry` and `link` are wanted.
        group: blocks rolled at a time, or None for all.
        depth: counter to add to.
        projected: `(K, n, B, P)` the cell's projection of x, or None to have each roll make it.
        store: False if the outputs are not wanted all at once: each backward pass then rolls every group again.

    Attributes:
        outputs: `(K, n, B, d)` or None.
        end, carry, link: `(n, B, S)`, `(n, B, M)`, `(n, B, d)` or None.
    """

    def __init__(
        self, cell: Cell, x: Tensor, start: Tensor, *, keep: bool, group: int | None, depth: Depth,
        projected: Tensor | None = None, store: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self._cell, self._x, self._start, self._depth, self._projected = cell, x, start, depth, projected
        self.kept = keep
        k, n, b, _ = x.shape
        depth.steps += k
        self._spans = [(0, n)] if group is None or group >= n else [(i, min(i + group, n)) for i in range(0, n, group)]
        self._whole: Roll | None = None
        if len(self._spans) == 1 and store:
            roll = self._roll(0, n, keep)
            self._whole = roll if keep else None
            self.outputs = None if roll.outputs is None else roll.outputs.view(k, n, b, -1)
            ends, carries, links = [roll.end], [roll.carry], [roll.link]
            if not keep:
                roll.release()
        else:
            ends, carries, links = [], [], []
            self.outputs = start.new_empty(k, n, b, cell.hidden_size) if keep and store else None
            for i, j in self._spans:
                with self._roll(i, j, keep and store) as roll:
                    if self.outputs is not None and roll.outputs is not None:
                        self.outputs[:, i:j] = roll.outputs.view(k, j - i, b, -1)
                    ends.append(roll.end)
                    carries.append(roll.carry)
                    links.append(roll.link)
        self.end = torch.cat(ends).view(n, b, -1)
        self.carry = torch.cat(carries).view(n, b, -1)
        self.link = None if links[0] is None else torch.cat([one for one in links if one is not None]).view(n, b, -1)

    def let_go(self) -> None:
        """Release the roll kept for the backward pass, and the outputs with it; ends, carries and links stay."""
        if self._whole is not None:
            self._whole.release()
            self._whole = self.outputs = None

    def release(self) -> None:
        """Release the roll, and give back the projected inputs: for the last of the rolls that share them."""
        if self.released:
            return
        self.let_go()
        # a cell without a projection has its input itself there, which may be the caller's
        p, x = self._projected, self._x
        if p is not None and p.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
            self.own(p)
        super().release()

    @contextmanager
    def _rolled(self, i: int, j: int) -> Iterator[Roll]:
        """Yield the roll of blocks i..j with activations: the kept one, or another, released after use."""
        if self._whole is not None:
            yield self._whole
        else:
            with self._roll(i, j, True) as roll:
                yield roll

    def _roll(self, i: int, j: int, keep: bool) -> Roll:
        x, start = self._x[:, i:j], self._start[i:j]
        p = None if self._projected is None else self._projected[:, i:j].flatten(1, 2)
        return self._cell.roll(x.flatten(1, 2), start.flatten(0, 1), keep=keep, projected=p)

    def backward(
        self, dout: Tensor | SpanLoss | None, dend: Tensor, *, gradients: bool, inputs: bool = True
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Take the vector-Jacobian products of all blocks at once.

        Args:
            dout: `(K, n, B, d)` gradient on the outputs, or None; or a function from a group's outputs to their
                gradient, called once per group (`engine.block_loss.LossPass`).
            dend: `(n, B, S)` message at each block's end.
            gradients: also return the gradients on input and parameters.
            inputs: False if the gradient on the input is not wanted.

        Returns:
            Gradient `(n, B, S)` on the start states; gradient `(K, n, B, D)` on x or None; parameter gradients.
        """
        k, n, b, _ = self._x.shape
        self._depth.steps += k
        starts: list[Tensor] = []
        dinputs: list[Tensor] = []
        total: list[Tensor | None] = []
        for i, j in self._spans:
            with self._rolled(i, j) as roll:
                if callable(dout):
                    assert roll.outputs is not None
                    part = dout(i, j, roll.outputs, gradients)
                else:
                    part = None if dout is None else dout[:, i:j].flatten(1, 2)
                starts.append(roll.backward_state(part, dend[i:j].flatten(0, 1)).view(j - i, b, -1))
                if gradients:
                    dx, params = roll.gradients(inputs)
                    if dx is not None:
                        dinputs.append(dx.view(k, j - i, b, -1))
                    total = added(total, params)
        if len(self._spans) > 1:
            self._depth.steps += k  # the groups were rolled again
        return torch.cat(starts), torch.cat(dinputs, 1) if dinputs else None, total
