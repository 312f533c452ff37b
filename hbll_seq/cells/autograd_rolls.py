"""Rolls differentiated by autograd: of any cell step by step, or in one call of PyTorch.

`AutogradRoll` is the reference for every other roll.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hbll_seq.cells.derivative import gradients_of
from hbll_seq.kernels.buffers import Borrower

if TYPE_CHECKING:
    from hbll_seq.cells.base import Cell


class _GraphRoll(Borrower):
    """The shared part of rolls by autograd: products on a graph of the K time steps, kept until the release."""

    _cell: "Cell"
    _x: Tensor
    _start: Tensor
    _outputs: Tensor | None
    _end: Tensor
    outputs: Tensor | None
    end: Tensor
    carry: Tensor
    link: Tensor | None

    def _leaves(self, cell: "Cell", x: Tensor, state: Tensor, keep: bool) -> None:
        super().__init__()
        self._cell = cell
        self._last: tuple[Tensor | None, Tensor | None] = (None, None)
        self._x, self._start = x.detach(), state.detach()
        if keep:
            if self._x.is_floating_point():
                self._x.requires_grad_()
            self._start.requires_grad_()

    def _pull_back(self, wanted: list[Tensor]) -> list[Tensor | None]:
        assert self._outputs is not None, "rolled with keep=False: nothing to differentiate"
        pairs = [(o, g) for o, g in zip((self._outputs, self._end), self._last, strict=True) if g is not None]
        if not pairs:
            return [None] * len(wanted)
        heads, grads = zip(*pairs, strict=True)
        return gradients_of(heads, wanted, grads, retain_graph=True)

    def backward_state(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """See `Roll.backward_state`."""
        self._last = (dout, dend)
        (grad,) = self._pull_back([self._start])
        return torch.zeros_like(self._start) if grad is None else grad

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`."""
        parameters: list[Tensor] = list(self._cell.parameters())
        if not inputs or not self._x.requires_grad:
            return None, self._pull_back(parameters)
        dx, *rest = self._pull_back([self._x, *parameters])
        return dx, rest


class AutogradRoll(_GraphRoll):
    """The reference roll of any cell, step by step; all other rolls are tested against it."""

    step_by_step = True

    def __init__(self, cell: "Cell", x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None) -> None:
        with torch.set_grad_enabled(keep):
            self._leaves(cell, x, state, keep)
            p = cell.project(self._x) if keep or projected is None else projected
            carry, outputs, here, link = None, [], self._start, None
            for now in p.unbind(0):
                here, one, link = cell.advance(now, here)
                carry = one.detach() if carry is None else carry * one.detach()
                if keep:
                    outputs.append(cell.output(here))
            assert carry is not None
            self._outputs = torch.stack(outputs) if keep else None  # (K, N, d)
            self._end = here
        self.outputs = None if self._outputs is None else self._outputs.detach()
        self.end = here.detach()
        self.carry = carry
        self.link = None if link is None else link.detach()


class SequenceRoll(_GraphRoll):
    """The roll of a cell whose whole sequence PyTorch runs in one call (oneDNN where it can).

    Such a call does not return the carry. The cell computes it afterwards from the outputs, for all time steps at once
    (`block_carry`).
    """

    step_by_step = False

    def __init__(
        self, cell: "Cell", x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> None:
        with torch.set_grad_enabled(keep):
            self._leaves(cell, x, state, keep)
            outputs, self._end = cell.run(self._x, self._start)  # (K, N, d)
        self._outputs = outputs if keep else None
        self.outputs = outputs.detach() if keep else None
        self.end = self._end.detach()
        self.carry, self.link = self.end, None
        if not carry:
            return
        with torch.no_grad():
            p = cell.project(self._x) if projected is None else projected
            self.carry, self.link = cell.block_carry(p, state.detach(), outputs.detach(), self.end)
