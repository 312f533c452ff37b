"""A cell around another one; it passes on everything it does not change."""

from collections.abc import Sequence

from torch import Tensor

from hbll_seq.cells.base import Advance, Cell


class WrappedCell(Cell):
    """A cell with sizes, parameters and steps of `inner`; subclasses replace its roll, input or arithmetic.

    Args:
        inner: any cell.
    """

    def __init__(self, inner: Cell) -> None:
        self.inner = inner
        self.input_size, self.hidden_size = inner.input_size, inner.hidden_size
        self.state_size, self.memory_size = inner.state_size, inner.memory_size
        self.bound, self.recipe = inner.bound, inner.recipe
        self.bf16 = inner.bf16

    def parameters(self) -> Sequence[Tensor]:
        """Return the inner cell's parameters."""
        return self.inner.parameters()

    def project(self, x: Tensor) -> Tensor:
        """Project by the inner cell."""
        return self.inner.project(x)

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the inner cell's recurrent weights and bias."""
        return self.inner.recurrent()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Advance the inner cell."""
        return self.inner.advance(p, state)
