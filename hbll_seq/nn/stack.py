"""A stack of recurrent layers on padded sequences, each run by an `Execute`: directions, ends, and what stands between.

A cell runs forward from the first time step. The backward direction is the same cell on each sequence reversed within
its own length. The state at a sequence's end is looked up among the outputs, or kept by `cells.padding`.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from hbll_seq.cells import Cell, keeping
from hbll_seq.cells.padding import marked, quiet
from hbll_seq.engine.execution import Execute
from hbll_seq.errors import InputError
from hbll_seq.nn.projected import Projected

# number of the layer, its input (B, T, D), its outputs (B, T, d) -> input of the next layer, or the stack's outputs
Between = Callable[[int, Tensor, Tensor], Tensor]


class RunCell(Protocol):
    """A function with the arguments and results of `run_cell`, which knows how much of each sequence is here."""

    def within(self, packed: Tensor, /) -> Tensor:
        """Return `(B,)` how many time steps count here of sequences that came packed, with these lengths `(B,)`."""
        ...

    def __call__(
        self, number: int, cell: Cell | Projected, x: Tensor, start: Tensor | None, lengths: Tensor | None,
        execute: Execute, /, *, backward: bool, end: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Run one cell."""
        ...


# set while sequences are spread over several processes (`hbll_seq.distributed`)
SPREAD: ContextVar[RunCell | None] = ContextVar("SPREAD", default=None)


def run_stack(
    layers: Sequence[Sequence[Cell | Projected]], x: Tensor, starts: Sequence[Tensor | None], lengths: Tensor | None,
    execute: Execute, *, between: Between, ends: bool,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Run a stack of layers.

    Args:
        layers: the cell of every direction of every layer, forward first.
        x: `(B, T, D)`.
        starts: `(B, S)` start of every cell, all directions of the first layer first; None for zero.
        lengths: `(B,)` valid time steps on the CPU, or None for all.
        execute: runs a cell; cells are numbered in the order of `starts`.
        between: see `Between`; called after every layer.
        ends: whether the states at the sequences' ends are wanted.

    Returns:
        Outputs `(B, T, d)` of the last layer, directions side by side, and with `ends` the state `(B, S)` of every cell
        at each sequence's end; of a backward direction after its first time step.
    """
    if lengths is not None and int(lengths.min()) == x.shape[1]:
        lengths = None
    run = SPREAD.get() or run_cell
    found: list[Tensor] = []
    number = 0
    for layer, cells in enumerate(layers):
        outputs = []
        for backward, cell in enumerate(cells):
            one, end = run(
                number, cell, x, starts[number], lengths, execute, backward=bool(backward), end=ends
            )  # fmt: skip
            outputs.append(one)
            if end is not None:
                found.append(end)
            number += 1
        x = between(layer, x, outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1))
    return x, found


def run_cell(
    number: int, cell: Cell | Projected, x: Tensor, start: Tensor | None, lengths: Tensor | None, execute: Execute, *,
    backward: bool, end: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Run one cell: return outputs `(B, T, d)` in the order of time, and with `end` its last state. See `run_stack`."""
    if backward:
        x = reverse(x, lengths)
    if isinstance(cell, Projected):
        inner, x, start = cell.enter(x, start)
        outputs, last = cell.leave(*_forward(number, inner, x, start, lengths, execute, end))
    else:
        start = cell.initial(len(x), _like(cell, x)) if start is None else start
        outputs, last = _forward(number, cell, x, start, lengths, execute, end)
    return (reverse(outputs, lengths) if backward else outputs), last


def _like(cell: Cell, x: Tensor) -> Tensor:
    """Return a tensor with the dtype of states: a weight, since inputs may be symbols."""
    weights = cell.parameters()
    return weights[0].detach() if weights else x.detach()


def _forward(
    number: int, cell: Cell, x: Tensor, start: Tensor, lengths: Tensor | None, execute: Execute, end: bool
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Run one cell forward in time.

    Raises:
        InputError: an execution of the user's that returns no pair.
    """
    if lengths is not None:
        cell, x = quiet(cell, x, lengths)
    if not end or lengths is None:
        found = execute(number, cell, x, start, lengths, end=end)
        if not isinstance(found, tuple):
            raise InputError("execute", f"one that returns a {type(found).__name__}", "a pair (outputs, end)")
        outputs, last = found
    elif cell.state_size == cell.hidden_size:
        outputs, _ = execute(number, cell, x, start, lengths, end=False)
        last = outputs[torch.arange(len(x), device=x.device), lengths.to(x.device) - 1]
    else:
        kept = keeping(cell)
        assert kept is not None, f"the end of a padded sequence, for {type(cell).__name__}"
        outputs, last = execute(number, kept, marked(x, lengths, x.shape[1]), start, None, end=True)
        at_end = outputs[torch.arange(len(x), device=x.device), lengths.to(x.device) - 1]
        last = torch.cat([last[:, : cell.memory_size], at_end], 1) if last is not None else None
    return outputs, last if end else None


def reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse `(B, T, D)` in time, each sequence within its own length; padding stays where it is."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1])[None]
    source = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    source = source + torch.arange(len(x))[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, source.flatten().to(x.device)).view_as(x)
