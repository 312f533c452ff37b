"""`Recurrent`: a cell of your own, or a stack of them, as a layer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hbll_seq.cells import Cell, adopt
from hbll_seq.data.scalars import flag, integer, number
from hbll_seq.errors import InputError
from hbll_seq.nn.call import Layered, call
from hbll_seq.nn.engined import layer_options
from hbll_seq.nn.mingru import check_call
from hbll_seq.nn.outside import eager
from hbll_seq.nn.projected import Projected


class Recurrent(Layered):
    """Layers made of modules `forward(x, h) -> h`, with x `(N, D)` and h `(N, d)` (see `hbll_seq.cells`).

    Args:
        cell: a module with an attribute `hidden_size`, optionally with a method `carry(x, h)`; or a sequence of such
            modules, one per layer.
        input_size: D of the first layer; None for the cell's own attribute `input_size`.
        batch_first: input and output are `(B, T, ...)`.
        dropout: share of outputs set to zero in training, between layers.
        options: options of the engine, see `hbll_seq.engine.Options`.

    Raises:
        InputError: a module that is no such cell, or an argument out of range.
    """

    def __init__(
        self, cell: nn.Module | Sequence[nn.Module], input_size: int | None = None, *, batch_first: bool = False,
        dropout: float = 0.0, **options: Any,
    ) -> None:  # fmt: skip
        layer_options(options)
        super().__init__()
        stack = not isinstance(cell, nn.Module) or isinstance(cell, nn.ModuleList)
        self.layers = nn.ModuleList(cell if stack else [cell])  # type: ignore[arg-type,list-item]  # as `stack` says
        if not len(self.layers):
            raise InputError("cell", "no module", "at least one")
        known = getattr(self.layers[0], "input_size", None)
        if input_size is None and not isinstance(known, int):
            raise InputError("input_size", "None, and a cell without input_size", "the number of features")
        self.input_size = integer("input_size", known if input_size is None else input_size)
        self.batch_first, self.dropout = flag("batch_first", batch_first), number("dropout", dropout, most=1.0)
        self.num_layers, self.bidirectional = len(self.layers), False
        self.hidden_size = self.cells()[-1][0].hidden_size  # type: ignore[union-attr]  # never projected
        self.set_engine(options)

    def weight(self) -> Tensor:
        """See `Layered`."""
        return next(self.layers.parameters())

    def cells(self) -> list[list[Cell | Projected]]:
        """See `Layered`."""
        return [[cell] for cell in adopt(self.layers, self.input_size)]

    @eager
    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Any]:  # noqa: A002  PyTorch's name
        """Return outputs and last states; arguments and results as for `nn.GRU`.

        Layers of different widths start at zero; their last states come as a list.

        Raises:
            InputError: input or start of a wrong type, shape or dtype.
        """
        widths = [cell.hidden_size for cell in adopt(self.layers, self.input_size)]
        return call(self, input, check_call(self, input, hx, self.input_size, widths))
