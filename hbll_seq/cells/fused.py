"""Rolls of cells that have a recipe: K steps in one compiled call (`hbll_seq.kernels`), float32 on the CPU.

They differ in how the input reaches the gates, and so in what becomes of the gradient on the projected input.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hbll_seq.kernels.buffers import give
from hbll_seq.kernels.roll import FusedRoll

if TYPE_CHECKING:
    from hbll_seq.cells.base import Cell


class CellRoll(FusedRoll, ABC):
    """A roll of a cell; the projected input is given, or made here and given back with the roll.

    Args:
        cell: a cell with a recipe.
        x: `(K, N, D)`.
        projected: `(K, N, P)` the projected input, or None; with `index` `(V, P)`.
        state: `(N, S)`.
        keep, carry, index, every: as for `FusedRoll`.
    """

    step_by_step = False
    _made: Tensor | None = None

    def __init__(
        self, cell: "Cell", x: Tensor, projected: Tensor | None, state: Tensor, *, keep: bool, carry: bool,
        index: Tensor | None = None, every: int | None = None,
    ) -> None:  # fmt: skip
        self._cell, self._x = cell, x
        if projected is None:
            projected = self._made = cell.projected(x)
        weight, bias = cell.recurrent()
        assert cell.recipe is not None
        super().__init__(
            cell.recipe, projected, weight, bias, state.detach(), keep=keep, carry=carry, index=index, every=every
        )

    @abstractmethod
    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`."""

    def __del__(self) -> None:
        """Work buffers go back."""
        if self._made is not None and give is not None:
            give(self._made)
        super().__del__()


class DenseRoll(CellRoll):
    """The projected input is linear in x: `W_ih x + b_ih`, the first of the cell's parameters."""

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`."""
        w_ih, _, *biases = self._cell.parameters()
        with torch.no_grad():
            g = self.products()
            grads: list[Tensor | None] = [g.given.t() @ self._x.flatten(0, 1), g.weight]
            if biases:
                # b_ih and b_hh differ only where a gate stands between them (GRU's n)
                same = len(self.recipe.order) == self.recipe.columns
                grads += [g.bias if same else g.given.sum(0), g.bias]
            return (g.given @ w_ih).view_as(self._x) if inputs else None, grads


class ProjectedRoll(CellRoll):
    """No recurrent weights, and a projection that is whatever it is: autograd differentiates it."""

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`."""
        given = self.products().given
        with torch.enable_grad():
            x = self._x.detach().requires_grad_(inputs)
            p = self._cell.project(x)
        wanted: list[Tensor] = [*self._cell.parameters()]
        grads: list[Tensor | None] = [*torch.autograd.grad(p, [x, *wanted] if inputs else wanted, given.view_as(p))]
        return (grads[0], grads[1:]) if inputs else (None, grads)
