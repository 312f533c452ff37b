"""The cells of a name or a module: the stack of recurrent layers that this package trains.

The module stays as it is (`nn.GRU` keeps its parameter names); the cells are views on it.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import nn

from hbll_seq.cells.base import Cell
from hbll_seq.cells.dense import DenseCell
from hbll_seq.cells.elman import ElmanCell
from hbll_seq.cells.gru import GRUCell
from hbll_seq.cells.lstm import LSTMCell
from hbll_seq.cells.mingru import MinGRU, MinGRUCell
from hbll_seq.cells.user import UserCell
from hbll_seq.errors import InputError

NAMES = ("gru", "lstm", "elman", "mingru")

MODULES: dict[str, type[nn.RNNBase]] = {"GRU": nn.GRU, "LSTM": nn.LSTM}  # by `mode`; all others are nn.RNN's
CELLS: dict[str, type[DenseCell]] = {"GRU": GRUCell, "LSTM": LSTMCell}

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


F = TypeVar("F", bound=Callable[..., Any])

_AS_CELLS = "_hbll_seq_as_cells"


class AdoptedLayer(NamedTuple):
    """One layer of a module.

    Attributes:
        cells: the cell of every direction, forward first.
        module: the module that owns the layer.
        dropout: share of the layer's outputs that the module sets to zero in training.
    """

    cells: list[Cell]
    module: nn.Module
    dropout: float

    @property
    def rate(self) -> float:
        """Share of the outputs to set to zero now."""
        return self.dropout if self.module.training else 0.0

    @property
    def width(self) -> int:
        """Number of outputs at a time step, directions side by side."""
        return sum(cell.hidden_size for cell in self.cells)


def as_cells(forward: F) -> F:
    """Mark a module's `forward` as one that computes what its cells do, so that the module can be adopted."""
    setattr(forward, _AS_CELLS, True)
    return forward


def build(
    cell: str, input_size: int, hidden: int, layers: int, *, bidirectional: bool = False, width: int | None = None
) -> nn.Module:
    """Make a new recurrent module by name: "gru", "lstm", "elman" or "mingru".

    Args:
        cell: the name.
        input_size: width of the first layer's input.
        hidden: state units.
        layers: depth.
        bidirectional: every layer has a backward direction too.
        width: width of the later layers' input; None for that of a layer's outputs.

    Returns:
        One module; an `nn.ModuleList` of one per layer where its layers cannot read `width` values.
    """
    if layers > 1 and width not in (None, hidden * (1 + bidirectional)):
        sizes = [input_size, *[width] * (layers - 1)]
        return nn.ModuleList([build(cell, int(size), hidden, 1, bidirectional=bidirectional) for size in sizes])
    if cell == "gru":
        return nn.GRU(input_size, hidden, layers, batch_first=True, bidirectional=bidirectional)
    if cell == "lstm":
        return nn.LSTM(input_size, hidden, layers, batch_first=True, bidirectional=bidirectional)
    if cell == "elman":
        return nn.RNN(input_size, hidden, layers, batch_first=True, bidirectional=bidirectional)
    if cell == "mingru":
        return MinGRU(input_size, hidden, layers, bidirectional=bidirectional)
    raise InputError("cell", repr(cell), f"one of {NAMES}, an nn.GRU/nn.LSTM/nn.RNN, or a module forward(x, h)")


def adopt(module: nn.Module, input_size: int) -> list[Cell]:
    """Return cells, one per layer, that view the parameters of `module`: see `adopt_layers`.

    Raises:
        InputError: also bidirectional modules and dropout between layers.
    """
    for one in module if isinstance(module, nn.ModuleList) else [module]:
        if isinstance(one, nn.RNNBase | MinGRU) and one.bidirectional:
            raise InputError("cell", "a bidirectional module", "a causal one (bidirectional=False)")
        if isinstance(one, nn.RNNBase) and one.dropout:
            raise InputError("cell", f"dropout={one.dropout}", "dropout=0")
    return [layer.cells[0] for layer in adopt_layers(module, input_size)]


def adopt_layers(module: nn.Module, input_size: int, width: int | None = None) -> list[AdoptedLayer]:
    """Return layers whose cells view the parameters of `module`.

    Args:
        module: `nn.GRU`, `nn.LSTM`, `nn.RNN`, `MinGRU`, a layer of `hbll_seq.nn`, a module with `forward(x, h) -> h`
            and `hidden_size`, or an `nn.ModuleList` of such modules (a stack).
        input_size: width of the first layer's input, if the module has no such attribute.
        width: width of the later modules' input in an `nn.ModuleList`; None for that of the outputs before them.

    Raises:
        InputError: projecting modules, hooks, wrong signatures.
    """
    if isinstance(module, nn.ModuleList):
        layers: list[AdoptedLayer] = []
        for one in module:
            layers += adopt_layers(one, (width or layers[-1].width) if layers else input_size, width)
        return layers
    if not isinstance(module, nn.RNNBase | MinGRU):
        if not hasattr(type(module).forward, _AS_CELLS):
            return [AdoptedLayer([_user(module, input_size)], module, 0.0)]
        _refuse_changed(module, type(module))  # hbll_seq.nn.Recurrent
        stack = [one.cells for one in adopt_layers(module.layers, input_size, width)]  # type: ignore[arg-type]  # a ModuleList
    else:
        _refuse(module, input_size)
        suffixes = ("", "_reverse")[: 1 + module.bidirectional]
        stack = [[view(module, layer, suffix) for suffix in suffixes] for layer in range(module.num_layers)]
    rate = float(getattr(module, "dropout", 0.0))  # between the module's own layers, as its class does it
    return [*(AdoptedLayer(cells, module, rate) for cells in stack[:-1]), AdoptedLayer(stack[-1], module, 0.0)]


def view(module: nn.RNNBase | MinGRU, layer: int, suffix: str = "") -> Cell:
    """Return one layer of a module as a cell; `suffix` as for `DenseCell`."""
    if isinstance(module, MinGRU):
        return MinGRUCell(module, layer, suffix)
    return CELLS.get(module.mode, ElmanCell)(module, layer, suffix)


def _refuse(module: nn.RNNBase | MinGRU, input_size: int) -> None:
    kind: type[nn.Module] = MinGRU
    if isinstance(module, nn.RNNBase):
        kind = MODULES.get(module.mode, nn.RNN)
    _refuse_changed(module, kind)
    if isinstance(module, nn.RNNBase) and module.proj_size:
        raise InputError("cell", f"proj_size={module.proj_size}", "proj_size=0, or `projection=` of the model")
    if isinstance(module, nn.RNNBase) and module.input_size != input_size:
        raise InputError("cell", f"input_size={module.input_size}", f"input_size={input_size}, as the model embeds")


def _refuse_changed(module: nn.Module, kind: type[nn.Module]) -> None:
    """Refuse hooks and overrides that would never be called: layers run from their weights, not through `forward`."""
    known = type(module).forward is kind.forward or hasattr(type(module).forward, _AS_CELLS)
    if not known or "forward" in vars(module):
        raise InputError("cell", f"{type(module).__name__} with a forward of its own", "a module forward(x, h) -> h")
    if any(getattr(module, name) for name in HOOKS):
        raise InputError("cell", f"{type(module).__name__} with hooks", "hooks on the embedding or the read-out")


def _user(module: nn.Module, input_size: int) -> Cell:
    hidden = getattr(module, "hidden_size", None)
    if not isinstance(hidden, int):
        raise InputError("cell", f"{type(module).__name__} without hidden_size", "an int attribute `hidden_size`")
    if isinstance(module, nn.LSTMCell):
        raise InputError("cell", "an nn.LSTMCell, whose state is a pair", 'forward(x, h) -> h, or cell="lstm"')
    given = [
        p
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(p.default is p.empty for p in given)
    if required > 2 or len(given) < 2:
        raise InputError("cell", f"forward with {required} required arguments", "forward(x, h) -> h")
    return UserCell(module, input_size, hidden)
