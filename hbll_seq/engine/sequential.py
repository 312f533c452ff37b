"""A layer's whole sequence in order: boundaries and messages exact by construction, nothing to sweep or correct.

A cell with a compiled roll takes one call each way; the backward call discounts between credit blocks. Other cells go
through the credit blocks one after the other, or through everything at once if no message is discounted. The objectives
are those of `engine.layer`: block i gets its start and its message as constants.

Under a budget of memory the sequence is cut into segments of a few credit blocks. The forward pass keeps only the
segments' starts; the backward pass rolls every segment again before it differentiates it. Depth is 2 T, or then 3 T.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hbll_seq.cells import Cell, Roll
from hbll_seq.cells.fused import CellRoll
from hbll_seq.engine.gradients import added
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.kernels.buffers import Borrower

# first step and the step after the last, outputs (k, B, d) of these steps -> gradient on them, or None for none
SegmentLoss = Callable[[int, int, Tensor], Tensor | None]


class Amplification:
    """Amplification of the backward pass: the largest message of a sequence over the sum of its time steps' own
    gradients.

    A message is a sum over later time steps of the loss's gradient on that step's output, carried back. If carrying
    expands nothing, the sum of their norms bounds it. Above 30 rounding decided every float32 gradient that was
    measured (docs/notes/2026-11-28-dynamics-that-do-not-forget.md).
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._most: Tensor | None = None

    def add(self, dout: Tensor | None, messages: Tensor) -> None:
        """Add gradients on some outputs `(..., B, d)` and the messages `(..., B, S)` before them."""
        most = torch.linalg.vector_norm(messages, dim=-1).view(-1, messages.shape[-2]).amax(0)
        self._most = most if self._most is None else torch.maximum(self._most, most)
        if dout is not None:
            own = torch.linalg.vector_norm(dout, dim=-1).view(-1, messages.shape[-2]).sum(0)
            self._sum = own if self._sum is None else self._sum + own

    def result(self) -> float:
        """Return the largest ratio of any sequence."""
        if self._most is None or self._sum is None:
            return 0.0
        return float((self._most / self._sum.clamp(min=torch.finfo(self._sum.dtype).tiny)).max())


class InOrder(Borrower):
    """A roll of T time steps of B sequences: rolled now, differentiated on request, until it is released.

    Args:
        cell: the layer's cell.
        x: `(T, B, D)` inputs, time first.
        state: `(B, S)` start.
        plan: its credit block, discount and budget are used.
        record: record to fill.
        outputs: whether `outputs` is wanted; if not, segments may be released (`plan.group`).

    Attributes:
        outputs: `(T, B, d)` (may be a view on a work buffer, valid until `backward` or the release), or None.
        end: `(B, S)` state after the last time step, in memory of its own.
        segment: time steps of a segment; the last one may be shorter.
    """

    def __init__(
        self, cell: Cell, x: Tensor, state: Tensor, plan: Plan, record: Record, *, outputs: bool = True
    ) -> None:
        super().__init__()
        self._cell, self._plan, self._record = cell, plan, record
        self._x, self._steps, self._k = x, len(x), plan.credit_block
        self._whole_credit = plan.whole_credit()
        self.segment = self._size()
        self._spans = [(i, min(i + self.segment, self._steps)) for i in range(0, self._steps, self.segment)]
        alone = len(self._spans) == 1
        self._pieces: list[list[Roll]] = []
        self._starts = [state.detach()]
        ends: list[Tensor] = []
        kept: list[Tensor] = []
        for first, stop in self._spans:
            last = stop == self._steps  # the first one that the backward pass needs
            rolls, here = self._roll(first, stop, self._starts[-1], keep=last or outputs, ends=ends)
            if outputs:
                kept += [roll.outputs if alone else roll.outputs.clone() for roll in rolls if roll.outputs is not None]
            self._pieces.append(rolls)
            if not last:
                self._let_go(len(self._pieces) - 1)
            self._starts.append(here)
        self.outputs = None if not outputs else kept[0] if len(kept) == 1 else torch.cat(kept)
        self.end = self._starts[-1]
        record.last = self.end
        record.ran, record.end, record.residuals = "sequential", torch.cat(ends), [*record.residuals, 0.0]
        record.boundaries = record.messages = "exact"
        record.depth.steps += self._steps

    def _let_go(self, segment: int) -> None:
        """Release the rolls of a segment."""
        rolls = self._pieces[segment]
        while rolls:
            rolls.pop().release()

    def release(self) -> None:
        """Release all rolls; nothing can be differentiated after it."""
        if self.released:
            return
        for i in range(len(self._pieces)):
            self._let_go(i)
        super().release()

    def _size(self) -> int:
        """Choose the time steps of a segment: all, or as many credit blocks as the budget allows."""
        plan = self._plan
        return self._steps if plan.group is None else max(1, plan.block * plan.group // self._k) * self._k

    def _roll(
        self, first: int, stop: int, state: Tensor, *, keep: bool, ends: list[Tensor] | None
    ) -> tuple[list[Roll], Tensor]:
        """Roll time steps first..stop in order: return the rolls, and the state after them; `ends` gets the credit
        blocks' ends.

        Without `keep` the rolls hold no activations.
        """
        x = self._x[first:stop]
        whole = self._cell.whole(x, state, keep=keep, every=self._k)
        if whole is not None:
            if ends is not None:
                assert whole.marks is not None
                ends += [whole.marks, whole.end[None]]
            return [whole], whole.end
        alone = self._whole_credit and keep and (ends is None or len(self._spans) == 1)
        if alone:
            roll = self._cell.roll(x, state, keep=True, carry=False)
            if ends is not None:
                assert roll.outputs is not None
                ends += [roll.outputs[self._k - 1 : -1 : self._k], self._cell.output(roll.end)[None]]
            return [roll], roll.end
        rolls: list[Roll] = []
        for piece in x.split(self._k):
            rolls.append(self._cell.roll(piece, state, keep=keep, carry=False))
            state = rolls[-1].end
            if ends is not None:
                ends.append(state[None])
        return rolls, state

    def backward(
        self, dout: SegmentLoss, dend: Tensor | None = None, *, inputs: bool
    ) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
        """Compute messages and gradients, the last segment first; activations are released on the way.

        Args:
            dout: function that returns the gradient on the outputs of a segment.
            dend: `(B, S)` gradient on the last state, or None.
            inputs: whether the gradient on the inputs is wanted.

        Returns:
            Gradient on the start `(B, S)`; on the inputs `(T, B, D)`, or None; on the parameters.
        """
        message, total = dend, list[Tensor | None]()
        dx: list[Tensor] = []
        gamma = self._gamma()
        probe = Amplification() if self._plan.probe else None
        for i in reversed(range(len(self._spans))):
            first, stop = self._spans[i]
            if not self._pieces[i]:
                self._pieces[i], _ = self._roll(first, stop, self._starts[i], keep=True, ends=None)
                self._record.depth.steps += stop - first
            rolls = self._pieces[i]  # each is released as soon as it is differentiated
            outputs = [roll.outputs for roll in rolls if roll.outputs is not None]
            given = dout(first, stop, outputs[0] if len(outputs) == 1 else torch.cat(outputs))
            if stop < self._steps and message is not None and gamma is not None:
                message = message * gamma[(stop - 1) // self._k, :, None]
            message, inner, params = self._back(rolls, first, given, message, gamma, inputs)
            if probe is not None:
                probe.add(given, message)
            dx += inner
            total = added(total, params)
        self._record.feedback_residuals.append(0.0)
        self._record.depth.steps += self._steps
        self._record.amplification = None if probe is None else probe.result()
        assert message is not None
        whole = None if not dx else dx[0] if len(dx) == 1 else torch.cat(dx[::-1])
        return message, whole, total

    def _gamma(self) -> Tensor | None:
        """Expand the discount to `(m, B)`, one per credit block; None if credit is whole."""
        if self._whole_credit:
            return None
        state = self._starts[0]
        m = -(-self._steps // self._k)
        return torch.as_tensor(self._plan.discount).to(state).expand(m, len(state), 1).squeeze(-1)

    def _back(
        self, rolls: list[Roll], first: int, dout: Tensor | None, message: Tensor | None, gamma: Tensor | None,
        inputs: bool,
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:  # fmt: skip
        """Differentiate the rolls of a segment from time step `first` on; gradients on inputs come last piece first."""
        if len(rolls) == 1:
            with rolls.pop() as roll:
                if isinstance(roll, CellRoll):
                    factors = None if gamma is None else gamma[first // self._k :]
                    message, dx, params = roll.backward(dout, message, factors, self._k, inputs)
                    return message, [] if dx is None else [dx], params
                message = roll.backward_state(dout, message)
                dx, params = roll.gradients(inputs)
                return message, [] if dx is None else [dx.clone()], params  # clone: may be a work buffer
        total: list[Tensor | None] = []
        pieces: list[Tensor] = []
        count = len(rolls)
        given = [None] * count if dout is None else dout.split(self._k)
        for i in reversed(range(count)):
            if gamma is not None and i + 1 < count and message is not None:
                message = message * gamma[first // self._k + i, :, None]
            with rolls.pop() as roll:
                message = roll.backward_state(given[i], message)
                dx, params = roll.gradients(inputs)
                if dx is not None:
                    pieces.append(dx.clone())
                total = added(total, params)
        assert message is not None
        return message, pieces, total


def exact_starts(cell: Cell, x: Tensor, blocks: Tensor, state: Tensor, steps: int) -> Tensor:
    """Find the states `(n, B, S)` at the start of every block by one roll in order that keeps nothing else.

    Args:
        cell: the layer's cell.
        x: `(T, B, D)` inputs, time first.
        blocks: `(K, n, B, D)` the same in blocks.
        state: `(B, S)` start.
        steps: K.
    """
    n = blocks.shape[1]
    if n == 1:
        return state[None]
    x = x[: (n - 1) * steps]  # no block starts at the last block's end
    whole = cell.whole(x, state, keep=False, every=steps)
    if whole is not None:
        with whole:
            assert whole.marks is not None
            return torch.cat([state[None], whole.marks, whole.end[None]])
    starts = [state]
    for i in range(n - 1):
        with cell.roll(blocks[:, i].contiguous(), starts[-1], keep=False, carry=False) as roll:
            starts.append(roll.end)
    return torch.stack(starts)
