"""Gradients of a backward roll's weights, summed slice by slice while a slice is in the cache.

A slice is some rows of the K*N and their gradients on the gates, `(rows, columns * units)`, see `Recipe.order`.
"""

import torch
from torch import Tensor

from hbll_seq.kernels import machine
from hbll_seq.kernels.recipes import Recipe

Slice = tuple[slice, Tensor]


class Recurrent:
    """A sum of gradients on recurrent weight and bias.

    Args:
        recipe: the cell's recipe.
        d: units without padding.
        before: `(K, N, parts, units)` the states before each time step.
        bf16: whether the products round their factors to bfloat16.
    """

    def __init__(self, recipe: Recipe, d: int, before: Tensor, bf16: bool) -> None:
        self._recipe, self._d, self._units, self._bf16 = recipe, d, before.shape[-1], bf16
        wide = recipe.gates * self._units
        self._weight, self._bias = before.new_zeros(wide, self._units), before.new_zeros(wide)
        self._before = before.view(-1, recipe.parts * self._units)[:, -self._units :]

    def add(self, rows: slice, some: Tensor) -> None:
        """Add one slice."""
        if self._recipe.gates:
            inner = some[:, : len(self._weight)]
            add_product(self._weight, inner, self._before[rows], self._bf16)
            self._bias += inner.sum(0)

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients on weight `(gates * d, d)` and bias `(gates * d,)`; None for cells without."""
        recipe, units, d = self._recipe, self._units, self._d
        if not recipe.gates:
            return None, None
        back = [recipe.order.index(g) for g in range(recipe.gates)]
        weight = self._weight.view(recipe.gates, units, units)[back, :d, :d]
        bias = self._bias.view(recipe.gates, units)[back, :d]
        return weight.reshape(-1, d), bias.flatten()


class ByIndex:
    """A sum of gradients on the rows that a roll with `index` looked up.

    Args:
        recipe: the cell's recipe.
        d: units without padding.
        table: `(V, inputs * units)` the table of the look-ups; it gives size and kind.
        index: `(K, N)` int64, the rows.
    """

    def __init__(self, recipe: Recipe, d: int, table: Tensor, index: Tensor) -> None:
        self._inputs, self._d, self._index = recipe.inputs, d, index.view(-1)
        self._total = torch.zeros_like(table)

    def add(self, rows: slice, some: Tensor) -> None:
        """Add one slice."""
        columns, wide = some.shape[1], self._total.shape[1]
        values, vectors = some[:, columns - wide :], wide // machine.target().width
        machine.add_by_index()([values, self._index[rows], self._total], len(some), vectors, columns)

    def result(self) -> Tensor:
        """Return the gradient `(V, inputs * d)`."""
        return self._total.unflatten(1, (self._inputs, -1))[..., : self._d].flatten(1)


def add_product(total: Tensor, p: Tensor, q: Tensor, bf16: bool) -> None:
    """Add `p^T q` to `total`; with `bf16` the factors and their product are rounded to bfloat16."""
    if bf16:
        total += p.bfloat16().t() @ q.bfloat16()
    else:
        total.addmm_(p.t(), q)
