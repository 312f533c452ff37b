"""`MinGRU`: minGRU layers (Feng et al. 2024) with the interface of `nn.GRU`; see `cells.mingru` for the equations."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from hbll_seq import cells
from hbll_seq.cells.adoption import view
from hbll_seq.data.scalars import flag, integer, number
from hbll_seq.errors import InputError
from hbll_seq.nn.call import Layered, call
from hbll_seq.nn.engined import layer_options
from hbll_seq.nn.outside import eager
from hbll_seq.nn.projected import Projected


def check_call(layer: Layered, given: Any, hx: Any, input_size: int, widths: list[int]) -> list[Tensor]:
    """Return the states of a call, after a check of its input.

    Args:
        layer: the layer that is called.
        given: its input.
        hx: its start `(cells, B, d)`, or None.
        input_size: D.
        widths: d of every cell.

    Raises:
        InputError: input or start of a wrong type, shape or dtype.
    """
    packed = isinstance(given, PackedSequence)
    x = given.data if packed else given
    if not isinstance(x, Tensor):
        raise InputError("input", type(x).__name__, "a tensor or a PackedSequence")
    if x.ndim not in ((2,) if packed else (2, 3)) or x.shape[-1] != input_size or x.numel() == 0:
        first = "(B, T" if layer.batch_first else "(T, B"
        raise InputError("input", f"shape {tuple(x.shape)}", f"{first}, {input_size}) or (T, {input_size}), not empty")
    like = layer.weight()
    if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
        raise InputError("input", f"dtype {x.dtype}", f"{like.dtype}, as the weights")
    if hx is None:
        return []
    rows = [int(given.batch_sizes[0])] if packed else [] if x.ndim == 2 else [x.shape[0 if layer.batch_first else 1]]
    expected = (len(widths), *rows, widths[0])
    if len(set(widths)) > 1:
        raise InputError("hx", "given for layers of different widths", "None")
    if not isinstance(hx, Tensor) or tuple(hx.shape) != expected or hx.dtype != like.dtype:
        came = f"shape {tuple(hx.shape)} of {hx.dtype}" if isinstance(hx, Tensor) else type(hx).__name__
        raise InputError("hx", came, f"{expected} of {like.dtype}")
    return [hx]


class MinGRU(Layered, cells.MinGRU):
    """A stack of minGRU layers: gates see only the input, so one sweep finds all states.

    Args:
        input_size: D.
        hidden_size: d.
        num_layers: depth of the stack.
        batch_first: input and output are `(B, T, ...)`.
        dropout: share of outputs set to zero in training, between layers.
        bidirectional: run every layer backward too; outputs are `(..., 2d)`.
        options: options of the engine, see `hbll_seq.engine.Options`.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        layer_options(options)
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            integer(name, value)
        cells.MinGRU.__init__(
            self, input_size, hidden_size, num_layers, bidirectional=flag("bidirectional", bidirectional)
        )
        self.batch_first, self.dropout = flag("batch_first", batch_first), number("dropout", dropout, most=1.0)
        self.set_engine(options)

    def weight(self) -> Tensor:
        """See `Layered`."""
        weight = self.weight_ih_l0
        assert isinstance(weight, Tensor)
        return weight

    def cells(self) -> list[list[cells.Cell | Projected]]:
        """See `Layered`."""
        suffixes = ("", "_reverse")[: 1 + self.bidirectional]
        return [[view(self, layer, suffix) for suffix in suffixes] for layer in range(self.num_layers)]

    @eager
    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:  # noqa: A002  PyTorch's name
        """Return outputs and last states; arguments and results as for `nn.GRU`.

        Raises:
            InputError: input or start of a wrong type, shape or dtype.
        """
        widths = [self.hidden_size] * (self.num_layers * (1 + self.bidirectional))
        return call(self, input, check_call(self, input, hx, self.input_size, widths))
