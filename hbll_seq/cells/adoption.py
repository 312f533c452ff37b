"""The cells of a name or a module: the stack of recurrent layers that this package trains.

The module stays as it is (`nn.GRU` keeps its parameter names); the cells are views on it.
"""

import inspect

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

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def build(cell: str, input_size: int, hidden: int, layers: int) -> nn.Module:
    """Make a new recurrent module by name: "gru", "lstm", "elman" or "mingru"."""
    if cell == "gru":
        return nn.GRU(input_size, hidden, layers, batch_first=True)
    if cell == "lstm":
        return nn.LSTM(input_size, hidden, layers, batch_first=True)
    if cell == "elman":
        return nn.RNN(input_size, hidden, layers, batch_first=True)
    if cell == "mingru":
        return MinGRU(input_size, hidden, layers)
    raise InputError("cell", repr(cell), f"one of {NAMES}, an nn.GRU/nn.LSTM/nn.RNN, or a module forward(x, h)")


def adopt(module: nn.Module, input_size: int) -> list[Cell]:
    """Return cells, one per layer, that view the parameters of `module`.

    Args:
        module: `nn.GRU`, `nn.LSTM`, `nn.RNN`, `MinGRU`, a module with `forward(x, h) -> h` and
            `hidden_size`, or an `nn.ModuleList` of such modules (a stack).
        input_size: width of the first layer's input, if the module has no such attribute.

    Raises:
        InputError: bidirectional or projecting modules, dropout between layers, hooks, wrong signatures.
    """
    if isinstance(module, nn.RNNBase | MinGRU):
        _refuse_changed(module)
    if isinstance(module, nn.RNNBase):
        _refuse(module, input_size)
        return [view(module, layer) for layer in range(module.num_layers)]
    if isinstance(module, MinGRU):
        return [MinGRUCell(module, layer) for layer in range(module.num_layers)]
    if isinstance(module, nn.ModuleList):
        cells: list[Cell] = []
        for one in module:
            cells += adopt(one, cells[-1].hidden_size if cells else input_size)
        return cells
    return [_user(module, input_size)]


def view(module: nn.RNNBase | MinGRU, layer: int, suffix: str = "") -> Cell:
    """Return one layer of a module as a cell; `suffix` as for `DenseCell`."""
    if isinstance(module, MinGRU):
        return MinGRUCell(module, layer, suffix)
    kinds: dict[str, type[DenseCell]] = {"GRU": GRUCell, "LSTM": LSTMCell}
    return kinds.get(module.mode, ElmanCell)(module, layer, suffix)


def _refuse(module: nn.RNNBase, input_size: int) -> None:
    if module.bidirectional:
        raise InputError("cell", "a bidirectional module", "a causal one (bidirectional=False)")
    if module.proj_size:
        raise InputError("cell", f"proj_size={module.proj_size}", "proj_size=0")
    if module.dropout:
        raise InputError("cell", f"dropout={module.dropout}", "dropout=0")
    if module.input_size != input_size:
        raise InputError("cell", f"input_size={module.input_size}", f"input_size={input_size}, as the model embeds")


def _refuse_changed(module: nn.RNNBase | MinGRU) -> None:
    """Refuse hooks and overrides that would never be called: layers run from their weights, not through `forward`."""
    kind: type[nn.Module] = MinGRU
    if isinstance(module, nn.RNNBase):
        kind = {"GRU": nn.GRU, "LSTM": nn.LSTM}.get(module.mode, nn.RNN)
    if type(module).forward is not kind.forward or "forward" in vars(module):
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
