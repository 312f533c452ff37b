"""`GRU`, `LSTM` and `RNN`: PyTorch's layers, run by an engine.

Constructor, parameters, inputs, results and errors are those of PyTorch's class, of which each is a subclass; a
state_dict fits both. Everything that the engine does not run is left to that class (`outside`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hbll_seq.cells import Cell
from hbll_seq.cells.adoption import as_cells, view
from hbll_seq.errors import InputError
from hbll_seq.nn.call import Layered, call
from hbll_seq.nn.engined import layer_options
from hbll_seq.nn.outside import eager, outside
from hbll_seq.nn.projected import Projected
from hbll_seq.nn.stack import SPREAD

AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)  # dtypes that autocast converts


class TorchLayer(Layered, nn.RNNBase):
    """The shared part of the three layers."""

    @as_cells
    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002  PyTorch's name
        """Return outputs and final states as PyTorch's layer does.

        Args:
            input: `(T, B, D)`, `(B, T, D)` with `batch_first`, `(T, D)`, or a `PackedSequence`.
            hx: start `(L * directions, B, d)`, for an LSTM `(h, c)`; None for zero.

        Returns:
            Outputs and the states at the sequences' ends, in the same layouts.

        Raises:
            Exception: as PyTorch's layer, for input that does not fit.
        """
        if torch.compiler.is_exporting():
            return super().forward(input, hx)
        return self._run(input, hx)

    @eager
    def _run(self, given: Any, hx: Any) -> Any:
        spread = SPREAD.get() is not None  # PyTorch's layer would run this process's span as if it were all
        if not self._fits(given, hx):
            found = super().forward(given, hx)
            if spread:
                came = f"{self.weight().dtype} weights, no values, or a transform or tracer"
                raise InputError("input", came, "float32 or float64 weights, and plain tensors, in time_sharded")
            return found
        if not spread and self._small(given):
            return super().forward(given, hx)
        return call(self, given, [] if hx is None else [*hx] if self.pair else [hx])

    def _fits(self, given: Any, hx: Any) -> bool:
        """Return whether the engine can run the call; otherwise PyTorch's layer does, or says what is wrong."""
        packed = isinstance(given, PackedSequence)
        x = given.data if packed else given
        states = [] if hx is None else list(hx) if self.pair and isinstance(hx, tuple | list) else [hx]
        tensors, weight = [x, *states], self.weight()
        if not all(isinstance(one, Tensor) for one in tensors) or outside(tensors, weight):
            return False
        if x.ndim not in ((2,) if packed else (2, 3)) or x.shape[-1] != self.input_size:
            return False
        allowed = AUTOCAST if torch.is_autocast_enabled(x.device.type) else ()
        if any(one.dtype != weight.dtype and one.dtype not in allowed for one in tensors):
            return False
        if any(one is not None and one.dtype != weight.dtype for one in self._flat_weights):
            return False
        single = x.ndim == 2 and not packed
        rows = [int(given.batch_sizes[0])] if packed else [] if single else [x.shape[0 if self.batch_first else 1]]
        count = self.num_layers * (1 + self.bidirectional)
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: 1 + self.pair]
        shapes = [(count, *rows, size) for size in sizes]
        return hx is None or [tuple(one.shape) for one in states] == shapes

    def _small(self, given: Any) -> bool:
        """Return whether all layers are small LSTMs in training, which the engine would leave to PyTorch anyway."""
        plain = self.pair and not self.proj_size and isinstance(given, Tensor) and torch.is_grad_enabled()
        if not plain or vars(self).get("_execution") is not None or torch.is_autocast_enabled(given.device.type):
            return False
        rows, steps = (1, len(given)) if given.ndim == 2 else given.shape[:2][:: 1 if self.batch_first else -1]
        return self.engine.left_to_pytorch(view(self, 0), rows, steps, self.weight(), self.num_layers)

    def weight(self) -> Tensor:
        """See `Layered`."""
        weight = self.weight_hh_l0
        assert isinstance(weight, Tensor)
        return weight

    def cells(self) -> list[list[Cell | Projected]]:
        """See `Layered`."""
        make = Projected if self.proj_size else view
        suffixes = ("", "_reverse")[: 1 + self.bidirectional]
        return [[make(self, layer, suffix) for suffix in suffixes] for layer in range(self.num_layers)]


class GRU(TorchLayer, nn.GRU):
    """`nn.GRU`, trained in blocks of time (docs/method.md#blocks-boundaries-two-unknowns).

    Args:
        input_size: D.
        hidden_size: d.
        num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as for `nn.GRU`.
        options: options of the engine, see `hbll_seq.engine.Options`. The defaults choose the fastest schedule for
            every shape; the gradient is that of backpropagation through time to the tolerances.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        layer_options(options)  # a wrong one is refused before the weights are drawn
        nn.GRU.__init__(
            self, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.set_engine(options)


class LSTM(TorchLayer, nn.LSTM):
    """`nn.LSTM`, trained in blocks of time; arguments as for `GRU`, and `proj_size`, `(B, T, proj_size)` outputs.

    A projecting LSTM runs as a plain one: the recurrent weights W_hh and the projection W_hr are multiplied.
    """

    pair = True

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        layer_options(options)  # a wrong one is refused before the weights are drawn
        nn.LSTM.__init__(
            self, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.set_engine(options)


class RNN(TorchLayer, nn.RNN):
    """`nn.RNN`, trained in blocks of time; arguments as for `GRU`, and `nonlinearity`, "tanh" or "relu"."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        layer_options(options)  # a wrong one is refused before the weights are drawn
        nn.RNN.__init__(
            self, input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.set_engine(options)
