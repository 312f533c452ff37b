"""A cell that reads symbols: the embedding moved behind the input projection.

A symbol's projected input is a row of `project(table)`, `(V, P)`. That is one small product per update instead of one
over all B*T embedded inputs. In the backward pass, gradients on the projected input are first summed by symbol. The
numbers equal those of embedding first, up to rounding. The compiled rolls look the rows up themselves.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Cell
from hbll_seq.cells.derivative import gradients_of
from hbll_seq.cells.fused import CellRoll, Gradients
from hbll_seq.cells.wrapped import WrappedCell
from hbll_seq.errors import InputError
from hbll_seq.kernels.weight_sums import Slice


def check_symbols(x: Tensor, count: int) -> None:
    """Refuse symbols outside a table of `count` rows: a compiled roll would read past its end.

    Raises:
        InputError: a symbol outside 0..count-1.
    """
    low, high = (int(v) for v in x.aminmax())
    if low < 0 or high >= count:
        raise InputError("x", f"symbols {low}..{high}", f"symbols in 0..{count - 1}")


class SymbolRoll(CellRoll):
    """A roll whose projected input is looked up by symbol."""

    _cell: "SymbolCell"

    def _gather(self, slices: Iterator[Slice], inputs: bool) -> Gradients:
        """See `CellRoll`; symbols get no gradient."""
        inner, recurrent, by_symbol = self._cell.inner, self.recurrent(), self.by_index()
        with torch.no_grad():
            for rows, some in slices:
                recurrent.add(rows, some)
                by_symbol.add(rows, some)
        weight, bias = inner.recurrent()
        with torch.enable_grad():
            table = inner.project(self._cell.table)
        wanted = self._cell.parameters()
        through = gradients_of([table], wanted, [by_symbol.result()])
        dweight, dbias = recurrent.result()
        for i, one in enumerate(wanted):
            if one is weight:
                through[i] = dweight
            elif one is bias:
                through[i] = dbias
        return None, through


class SymbolCell(WrappedCell):
    """A cell whose inputs are int64 symbols `(..., 1)`.

    Args:
        inner: the cell behind the embedding.
        table: `(V, D)` the embedding.
    """

    compiled_roll = SymbolRoll

    def __init__(self, inner: Cell, table: Tensor) -> None:
        assert isinstance(table, nn.Parameter)
        super().__init__(inner)
        self.table, self.input_size = table, 1
        self._rows: Tensor | None = None

    @staticmethod
    def pays(inner: Cell, table: Tensor, rows: int) -> bool:
        """Return whether to use it: a compiled roll, and far fewer symbols than inputs."""
        return inner.compiled(table) and 4 * len(table) <= rows

    def parameters(self) -> list[Tensor]:
        """Return the embedding and the inner cell's parameters."""
        return [self.table, *self.inner.parameters()]

    def project(self, x: Tensor) -> Tensor:
        """Look up the projected inputs: `(..., 1) -> (..., P)`."""
        return self.inner.project(self.table)[x.squeeze(-1)]

    def projects_first(self) -> bool:
        """See `Cell.projects_first`: the compiled roll looks up its own inputs."""
        return not self.compiled(self.table)

    def rows(self) -> Tensor:
        """Return the projected table `(V, P)`, computed once: a symbol cell lives only until the weights change."""
        if self._rows is None:
            with torch.no_grad():
                self._rows = self.inner.project(self.table)
        return self._rows

    def _roll_compiled(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool, every: int | None = None
    ) -> CellRoll:
        """Roll with symbols; the roll looks up its inputs."""
        index = x.squeeze(-1).contiguous()
        return SymbolRoll(self, x, self.rows(), state, keep=keep, carry=carry, index=index, every=every)
