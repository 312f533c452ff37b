"""A cell whose rolls are CUDA graphs: K time steps of all blocks are one launch (`capture=True` of the rule `hbll`).

A cell of your own, minGRU, and a GRU too wide for the Triton roll are rolled step by step, with a dozen launches each.
A GPU finishes small launches faster than Python starts them. Here a roll is recorded once per shape, forward and
backward, and then replayed. Cells already rolled in one launch (LSTM and Elman by cuDNN, GRU by Triton) stay as they
are. Weights are read in place: an optimizer's in-place updates need no new recording.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells.base import Cell, Roll
from hbll_seq.cells.wrapped import WrappedCell
from hbll_seq.errors import InputError
from hbll_seq.kernels import buffers, graphs
from hbll_seq.kernels.buffers import Borrower

KEPT = 8  # recordings in memory; each holds the activations of a roll


class Captures:
    """Recordings by cell, shape and kind of roll; the least recently used one is dropped first."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[tuple[Any, ...], _Recording | None] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of recordings in memory."""
        return sum(one is not None for one in self._by_key.values())

    def get(self, cell: Cell, x: Tensor, state: Tensor, projected: Tensor | None, keep: bool) -> "_Recording | None":
        """Return the recording of such a roll, made now if necessary; None if rolls are one launch already."""
        where = tuple(p.data_ptr() for p in cell.parameters())
        given = None if projected is None else projected.shape
        key = (type(cell), where, x.shape, x.dtype, state.shape, state.dtype, given, keep)
        if key not in self._by_key:
            self._by_key[key] = _record(cell, x, state, projected, keep)
            if len(self._by_key) > KEPT:
                self._by_key.popitem(last=False)
        self._by_key.move_to_end(key)
        return self._by_key[key]


class CapturedCell(WrappedCell):
    """A cell that rolls `inner` by recordings.

    Args:
        inner: any cell.
        captures: the recordings; they outlive the cell, which is made anew every update.
    """

    def __init__(self, inner: Cell, captures: Captures) -> None:
        super().__init__(inner)
        self.captures = captures

    def projected(self, x: Tensor) -> Tensor:
        """Return the inner cell's projection."""
        return self.inner.projected(x)

    def projects_first(self) -> bool:
        """Ask the inner cell."""
        return self.inner.projects_first()

    def roll(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> Roll:
        """Replay a recording, or use the inner cell's own roll if that is one launch."""
        recording = self.captures.get(self.inner, x, state, projected, keep)
        if recording is None:
            return self.inner.roll(x, state, keep=keep, projected=projected, carry=carry)
        return CapturedRoll(recording, x, state, projected)


class CapturedRoll(Borrower):
    """A `Roll` by replays, tested against the recorded roll. `outputs` is valid until the next roll's replay."""

    step_by_step = False

    def __init__(self, recording: "_Recording", x: Tensor, state: Tensor, projected: Tensor | None) -> None:
        super().__init__()
        self._recording, self._given = recording, (x, state, projected)
        self._turn = recording.forward(x, state, projected)
        roll = recording.roll
        self.outputs: Tensor | None = roll.outputs
        self.end, self.carry = roll.end.clone(), roll.carry.clone()
        self.link: Tensor | None = None if roll.link is None else roll.link.clone()

    def backward_state(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """See `Roll.backward_state`."""
        if self._turn != self._recording.turn:  # another roll has used this memory since
            self._turn = self._recording.forward(*self._given)
        return self._recording.backward(dout, dend).clone()

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`."""
        assert self._turn == self._recording.turn, "backward_state comes first"
        dx, parameters = self._recording.gradients(inputs)
        # copies: sums over groups and `.grad` must outlast the next replay
        return None if dx is None else dx.clone(), [None if p is None else p.clone() for p in parameters]


class _Recording:
    """One recorded roll with its memory: forward, backward to the start, gradients.

    Attributes:
        roll: the recorded roll; every replay writes its tensors.
        turn: number of forward replays.
    """

    def __init__(self, tools: graphs.Recorder, cell: Cell, x: Tensor, state: Tensor, projected: Tensor | None) -> None:
        self._tools, self.turn = tools, 0
        self._x, self._state = x.detach().clone(), state.detach().clone()
        self._projected = None if projected is None else projected.detach().clone()
        self._cell = cell  # keeps the tensors it made while warming up

    def record(self, keep: bool) -> bool:
        """Warm up and record; return False if the roll is one launch already."""
        with self._plain(keep) as plain:
            if not plain.step_by_step:
                return False
        with buffers.private():
            self._tools.warm(lambda: self._whole(keep))
            self._forward, self.roll = self._tools.record(lambda: self._plain(keep))
            if keep:
                assert self.roll.outputs is not None
                self._dout, self._dend = torch.zeros_like(self.roll.outputs), torch.zeros_like(self.roll.end)
                self._backward, self._start = self._tools.record(self._to_start)
                # both now: once weights or inputs have changed in place, autograd takes no new gradients of this roll
                self._finals: dict[bool, tuple[graphs.Replay, Any]] = {}
                for inputs in (True, False):
                    self._finals[inputs] = self._tools.record(partial(self.roll.gradients, inputs))
                    self._tools.record(self._to_start)  # not kept: a roll by hand takes gradients once per backward
        return True

    def _plain(self, keep: bool) -> Roll:
        return self._cell.roll(self._x, self._state, keep=keep, projected=self._projected)

    def _whole(self, keep: bool) -> None:
        with self._plain(keep) as roll:
            if keep:
                assert roll.outputs is not None
                roll.backward_state(torch.zeros_like(roll.outputs), torch.zeros_like(roll.end))
                roll.gradients()

    def _to_start(self) -> Tensor:
        return self.roll.backward_state(self._dout, self._dend)

    def forward(self, x: Tensor, state: Tensor, projected: Tensor | None) -> int:
        """Replay with new inputs; return the number of this turn."""
        self._x.copy_(x)
        self._state.copy_(state)
        if self._projected is not None and projected is not None:
            self._projected.copy_(projected)
        self._forward()
        self.turn += 1
        return self.turn

    def backward(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """Replay the backward pass; return the gradient on the start state."""
        for memory, given in ((self._dout, dout), (self._dend, dend)):
            memory.zero_() if given is None else memory.copy_(given)
        self._backward()
        return self._start

    def gradients(self, inputs: bool) -> tuple[Tensor | None, list[Tensor | None]]:
        """Replay the products of the latest `backward`."""
        replay, result = self._finals[inputs]
        replay()
        return result


def _record(cell: Cell, x: Tensor, state: Tensor, projected: Tensor | None, keep: bool) -> _Recording | None:
    tools = graphs.recorder(state.device)
    if tools is None:
        raise InputError("capture", f"True on device {state.device.type!r}", "a CUDA device, or capture=False")
    recording = _Recording(tools, cell, x, state, projected)
    try:
        return recording if recording.record(keep) else None
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(
            "capture", f"True for a cell that cannot be recorded ({error})",
            "a cell that neither waits for the device nor copies from the host, or capture=False",
        ) from error  # fmt: skip


def captured(cell: Cell, captures: Captures | None) -> Cell:
    """Return `cell` rolled by recordings in `captures`, or `cell` itself for None."""
    return cell if captures is None else CapturedCell(cell, captures)
