"""Cells to which padding after a sequence's end does no harm, by one more input column that marks it.

The state of GRU and Elman networks at a sequence's end is an output, and is looked up there. The memory c of an LSTM is
no output. Here one more input column marks padding. Its weights close the input gate and open the forget gate:

    i = sigmoid(-GATE) = 0      f = sigmoid(GATE) = 1      c' = f * c + i * g = c

These are the exact numbers 0 and 1 after rounding, and their slopes are 0. So c at the last time step is c at the
sequence's end, and no gradient enters through padding.

The state of an Elman network with ReLU may grow without bound, and overflow in padding. There the marked column turns
all units off: h' = relu(-OFF + ...) = 0.
"""

import torch
from torch import Tensor

from hbll_seq.cells.base import Cell
from hbll_seq.cells.elman import ElmanCell
from hbll_seq.cells.lstm import LSTMCell

GATE = 1e4
OFF = 1e37


class KeepingLSTM(LSTMCell):
    """The cell `inner` with one more input, 1 at time steps that change no memory and 0 at all others."""

    def __init__(self, inner: LSTMCell) -> None:
        vars(self).update(vars(inner))
        gates = inner.w_ih.new_tensor([-GATE, GATE, 0.0, 0.0]).repeat_interleave(inner.hidden_size)
        _more(self, gates)


class QuietElman(ElmanCell):
    """The cell `inner`, with ReLU, with one more input, 1 at time steps after which the state is 0."""

    def __init__(self, inner: ElmanCell) -> None:
        vars(self).update(vars(inner))
        _more(self, inner.w_ih.new_full((inner.hidden_size,), -OFF))


def _more(cell: LSTMCell | ElmanCell, column: Tensor) -> None:
    """Give a cell one more input, with these weights."""
    cell.w_ih = torch.cat([cell.w_ih, column.unsqueeze(1)], 1)
    cell.input_size += 1


def marked(x: Tensor, lengths: Tensor, steps: int) -> Tensor:
    """Return inputs `(B, steps, D + 1)` for x `(B, T, D)`, marked from each sequence's length on."""
    after = (torch.arange(steps, device=x.device)[None] >= lengths.to(x.device)[:, None]).unsqueeze(-1)
    padded = torch.nn.functional.pad(x, (0, 0, 0, steps - x.shape[1]))
    # an input of any size may stand there, even one that outweighs the mark
    return torch.cat([padded.masked_fill(after, 0.0), after.to(x)], -1)


def quiet(cell: Cell, x: Tensor, lengths: Tensor) -> tuple[Cell, Tensor]:
    """Return cell and inputs `(B, T, D)` such that no state overflows after a sequence's end."""
    if type(cell) is not ElmanCell or not cell.relu:
        return cell, x
    return QuietElman(cell), marked(x, lengths, x.shape[1])


def filled(cell: Cell, x: Tensor, steps: int) -> tuple[KeepingLSTM, Tensor] | None:
    """Return cell and inputs `(B, T, D)` as ones of `steps` time steps, of which those after T keep the memory.

    None for any but a plain or a keeping LSTM.
    """
    if type(cell) is LSTMCell:
        return KeepingLSTM(cell), marked(x, torch.full(x.shape[:1], x.shape[1]), steps)
    if not isinstance(cell, KeepingLSTM):
        return None
    more = x.new_zeros(len(x), steps - x.shape[1], x.shape[2])
    more[..., -1] = 1
    return cell, torch.cat([x, more], 1)


def keeping(cell: Cell) -> KeepingLSTM | None:
    """Return the cell as one that keeps its memory at marked time steps; None for any but a plain LSTM."""
    return KeepingLSTM(cell) if type(cell) is LSTMCell else None
