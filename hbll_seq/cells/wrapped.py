"""A cell around another one: what it does not change, it passes on."""

from torch import Tensor, nn

from hbll_seq.cells.base import Advance, Cell


class WrappedCell(Cell):
    """Sizes, parameters and steps of `inner`; subclasses put another roll, input or arithmetic in place of its own.

    Args:
        inner: any cell.
    """

    def __init__(self, inner: Cell) -> None:
        self.inner = inner
        self.input_size, self.hidden_size = inner.input_size, inner.hidden_size
        self.state_size, self.memory_size = inner.state_size, inner.memory_size
        self.bound, self.recipe = inner.bound, inner.recipe
        self.bf16 = inner.bf16

    def parameters(self) -> list[nn.Parameter]:
        """The inner cell's."""
        return self.inner.parameters()

    def project(self, x: Tensor) -> Tensor:
        """The inner cell's."""
        return self.inner.project(x)

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """The inner cell's."""
        return self.inner.recurrent()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """The inner cell's."""
        return self.inner.advance(p, state)
