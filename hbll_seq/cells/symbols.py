"""A cell that reads symbols: the embedding moved behind the input projection.

A symbol's projected input is a row of `project(table)`, `(V, P)`, which is one small product a step instead of one over
all B*T embedded steps; backwards, gradients on the projected input are first added up by symbol. The same
numbers as embedding first, up to rounding.
"""

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Advance, AutogradRoll, Cell, Roll
from hbll_seq.cells.fused import CellRoll
from hbll_seq.kernels.buffers import give, take
from hbll_seq.kernels.roll import fused

PRODUCT = 128  # symbols up to which adding up by symbol is a product with one-hot rows


class SymbolCell(Cell):
    """Inputs are int64 symbols `(..., 1)`.

    Args:
        inner: the cell behind the embedding.
        table: `(V, D)` the embedding.
    """

    def __init__(self, inner: Cell, table: Tensor) -> None:
        assert isinstance(table, nn.Parameter)
        self.inner, self.table = inner, table
        self.input_size, self.hidden_size = 1, inner.hidden_size
        self.state_size, self.memory_size = inner.state_size, inner.memory_size
        self.bound, self.chain_from, self.recipe = inner.bound, inner.chain_from, inner.recipe

    @staticmethod
    def pays(inner: Cell, table: Tensor, rows: int) -> bool:
        """Whether to use it: a compiled roll, and far fewer symbols than steps."""
        return inner.recipe is not None and fused(table) and 4 * len(table) <= rows

    def parameters(self) -> list[nn.Parameter]:
        """The embedding and the inner cell's."""
        return [self.table, *self.inner.parameters()]

    def project(self, x: Tensor) -> Tensor:
        """`(..., 1) -> (..., P)`."""
        return self.inner.project(self.table)[x.squeeze(-1)]

    def projected(self, x: Tensor) -> Tensor:
        """See `Cell.projected`."""
        with torch.no_grad():
            rows = self.inner.project(self.table)
            out = take((x.numel(), rows.shape[1]), rows)
            torch.index_select(rows, 0, x.flatten(), out=out)
        return out.view(*x.shape[:-1], -1)

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """See `Cell.recurrent`."""
        return self.inner.recurrent()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """The inner cell's."""
        return self.inner.advance(p, state)

    def roll(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> Roll:
        """The fused roll where it can be used."""
        if fused(state) and self.recipe is not None:
            return SymbolRoll(self, x, projected, state, keep=keep, carry=carry)
        return AutogradRoll(self, x, state, keep=keep, projected=projected)


class SymbolRoll(CellRoll):
    """The projected input is looked up by symbol."""

    _cell: SymbolCell

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`; there is none on the symbols."""
        inner, table = self._cell.inner, self._cell.table
        with torch.no_grad():
            g = self.products()
            total = _by_symbol(g.given, self._x.flatten(), len(table))
        weight, bias = inner.recurrent()
        with torch.enable_grad():
            rows = inner.project(table)
        wanted = self._cell.parameters()
        through: list[Tensor | None] = [*torch.autograd.grad(rows, wanted, total, allow_unused=True)]
        for i, one in enumerate(wanted):
            if one is weight:
                through[i] = g.weight
            elif one is bias:
                through[i] = g.bias
        return None, through


def _by_symbol(given: Tensor, symbols: Tensor, count: int) -> Tensor:
    """`(count, P)`: rows of `(M, P)` added up by symbol `(M,)`."""
    if count > PRODUCT:
        return given.new_zeros(count, given.shape[1]).index_add_(0, symbols, given)
    rows = take((len(symbols), count), given).zero_()
    rows.scatter_(1, symbols.unsqueeze(1), 1.0)
    total = rows.t() @ given
    give(rows)
    return total
