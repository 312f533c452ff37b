"""Rolls of cells with a recipe: K time steps in one compiled call (`hbll_seq.kernels`), float32 on the CPU.

They differ in the path of the input to the gates, and so in the use of the gradient on the projected input.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hbll_seq.cells.derivative import gradients_of
from hbll_seq.kernels.roll import FusedRoll
from hbll_seq.kernels.weight_sums import Slice, add_product

if TYPE_CHECKING:
    from hbll_seq.cells.base import Cell

Gradients = tuple[Tensor | None, list[Tensor | None]]  # on the input, on the parameters


class CellRoll(FusedRoll, ABC):
    """The roll of a cell from a given or own projected input; the release gives back its own.

    Args:
        cell: a cell with a recipe.
        x: `(K, N, D)`.
        projected: `(K, N, P)` the projected input, or None; with `index` `(V, P)`.
        state: `(N, S)`.
        keep, carry, index, every: as for `FusedRoll`.
    """

    step_by_step = False

    def __init__(
        self, cell: "Cell", x: Tensor, projected: Tensor | None, state: Tensor, *, keep: bool, carry: bool,
        index: Tensor | None = None, every: int | None = None,
    ) -> None:  # fmt: skip
        given = cell.projected(x) if projected is None else projected
        weight, bias = cell.recurrent()
        assert cell.recipe is not None
        super().__init__(
            cell.recipe, given, weight, bias, state.detach(),
            keep=keep, carry=carry, index=index, every=every, bf16=cell.bf16,
        )  # fmt: skip
        self._cell, self._x = cell, x
        if projected is None:
            self.own(given)

    def gradients(self, inputs: bool = True) -> Gradients:
        """See `Roll.gradients`."""
        return self._gather(self.slices(), inputs)

    def backward(
        self, dout: Tensor | None, dend: Tensor | None, factors: Tensor | None = None, every: int = 0,
        inputs: bool = True,
    ) -> tuple[Tensor, *Gradients]:  # fmt: skip
        """Do `backward_state` and `gradients` in one: less memory, and results are used while in the cache.

        The numbers are the same, up to the order in which time steps are summed.
        """
        rest = self._rest(dend)
        found = self._gather(self.backward_slices(dout, rest, factors, every), inputs)
        return self._start_gradient(rest), *found

    @abstractmethod
    def _gather(self, slices: Iterator[Slice], inputs: bool) -> Gradients:
        """Return the results of `gradients` from the gradients on the gates, some time steps at a time."""


class DenseRoll(CellRoll):
    """A roll whose projected input is linear in x: `W_ih x + b_ih`, the first of the cell's parameters."""

    @torch.no_grad()
    def _gather(self, slices: Iterator[Slice], inputs: bool) -> Gradients:
        w_ih, _, *biases = self._cell.parameters()
        x, recurrent = self._x.flatten(0, 1), self.recurrent()
        dw, dx = torch.zeros_like(w_ih), x.new_empty(x.shape) if inputs else None
        # the gradients on b_ih and b_hh differ only if a gate stands between them (GRU's n)
        same = len(self.recipe.order) == self.recipe.columns
        bias = None if same or not biases else dw.new_zeros(len(dw))
        for rows, some in slices:
            given = self.given_gradient(some)
            add_product(dw, given, x[rows], self._cell.bf16)
            if dx is not None and self._cell.bf16:
                dx[rows] = given.bfloat16() @ w_ih.bfloat16()
            elif dx is not None:
                torch.mm(given, w_ih, out=dx[rows])
            if bias is not None:
                bias += given.sum(0)
            recurrent.add(rows, some)
        weight, b_hh = recurrent.result()
        grads = [dw, weight, *([b_hh if same else bias, b_hh] if biases else [])]
        return None if dx is None else dx.view_as(self._x), grads


class ProjectedRoll(CellRoll):
    """A roll without recurrent weights and with any projection: autograd differentiates the projection."""

    def _gather(self, slices: Iterator[Slice], inputs: bool) -> Gradients:
        x, wanted = self._x.detach().flatten(0, 1), self._cell.parameters()
        dx, grads = torch.empty_like(x) if inputs else None, [torch.zeros_like(p) for p in wanted]
        for rows, some in slices:
            with torch.enable_grad():
                here = x[rows].requires_grad_(inputs)
                p = self._cell.project(here)
            found = gradients_of([p], [*wanted, *([here] if inputs else [])], [self.given_gradient(some)])
            for total, one in zip(grads, found, strict=False):
                if one is not None:
                    total += one
            if dx is not None and found[-1] is not None:
                dx[rows] = found[-1]
        return None if dx is None else dx.view_as(self._x), [*grads]
