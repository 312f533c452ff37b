"""Layers of a module, run by a rule: plain recurrent layers become this package's for a while, then an `Execute` runs
them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from hbll_seq.cells import Cell
from hbll_seq.engine.execution import Execute
from hbll_seq.nn.call import Layered
from hbll_seq.nn.conversion import PAIRS, revert, why_left
from hbll_seq.nn.projected import Projected


@contextmanager
def converted(module: nn.Module) -> Iterator[None]:
    """Switch every plain `nn.GRU`, `nn.LSTM` and `nn.RNN` inside to this package's layer, and back at the end.

    Layers that `hbll_seq.nn.convert` leaves stay as they are.
    """
    switched = [one for one in module.modules() if type(one) in PAIRS and why_left(one) is None]
    try:
        for one in switched:
            one.__class__ = PAIRS[type(one)]
        yield
    finally:
        for one in switched:
            revert(one)


def layers_of(module: nn.Module) -> list[Layered]:
    """Return the layers that an engine can run, in the module's order."""
    return [one for one in module.modules() if isinstance(one, Layered)]


def others_layer(module: nn.Module) -> bool:
    """Return whether a module runs a recurrent network that no engine runs."""
    return bool(why_left(module)) or type(module) in PAIRS


def cells_of(layer: Layered) -> list[Cell]:
    """Return the cells of a layer, in the order of their numbers."""
    return [cell.plain if isinstance(cell, Projected) else cell for cells in layer.cells() for cell in cells]


@contextmanager
def executing(layers: Sequence[Layered], execute: Execute) -> Iterator[None]:
    """Run all layers by `execute` for a while, their cells numbered through."""
    before = [vars(one).get("_execution") for one in layers]
    first = 0
    try:
        for one in layers:
            one.set_execution(execute, first)
            first += one.num_layers * (1 + one.bidirectional)
        yield
    finally:
        for one, was in zip(layers, before, strict=True):
            one.set_execution(*was if was is not None else (None,))
