"""`Span`: one rank's part of one cell's sequences, as a function from the state before it to the state after it.

A span is rolled in the order in which its cell passes it. Of sequences that end inside it, only so many time steps
count; a sequence without a time step in the span passes its state on unchanged.

Where dynamics forget, the end of a span depends on its last time steps alone, and a message at its start on its first.
`forgotten` and `head` find them without the rest of the span, and say so if they cannot.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.engine import Engine
from hbll_seq.engine.execution import Execute, sequential
from hbll_seq.engine.memory import activation_bytes
from hbll_seq.engine.plan import Record
from hbll_seq.nn.projected import Projected
from hbll_seq.nn.stack import run_cell

FIRST, GROWTH = 64, 4  # time steps of the first attempt, and the factor to the next
ROLLED = 1 << 16  # rows times time steps of one roll of a span


class Affine(NamedTuple):
    """A linear model of a span around one roll: the end, and how a change of the start reaches it.

    Attributes:
        end: `(B, S)`.
        carry: `(B, S)` share of a change of the start that survives in the same number.
        link: `(B, d)` derivative of the visible part of the end by its memory, or None without visible part.
    """

    end: Tensor
    carry: Tensor
    link: Tensor | None


class Span:
    """One rank's part of the sequences of one cell.

    Args:
        number: number of the cell, for `execute`.
        cell: the cell.
        x: `(B, T, D)` its inputs, in the order of the chain.
        counts: `(B,)` time steps that count, 0 to T, on the CPU; None for all.
        execute: runs the cell.

    Attributes:
        steps: T.
        divisible: whether pieces of the span may be run one after the other.
    """

    def __init__(self, number: int, cell: Cell | Projected, x: Tensor, counts: Tensor | None, execute: Execute) -> None:
        self.number, self.cell, self.x, self.execute = number, cell, x, execute
        self.steps = x.shape[1]
        full = counts is None or int(counts.min()) == self.steps
        self.counts = None if full else counts
        self.divisible = not self._limited()  # every piece would keep its last blocks
        self._record: Record | None = None

    def _limited(self) -> bool:
        """Return whether the engine may keep the activations of some blocks alone."""
        options = getattr(getattr(self.execute, "engine", None), "options", None)
        return getattr(options, "budget", None) is not None or getattr(options, "group", None) is not None

    def _affords(self) -> int:
        """Return how many time steps may be rolled at once with their activations: all but under a budget."""
        options = getattr(getattr(self.execute, "engine", None), "options", None)
        budget = getattr(options, "budget", None)
        if budget is None or not isinstance(self.cell, Cell):
            return self.steps
        return int(budget) // (activation_bytes(self.cell, self.x.dtype) * len(self.x))

    def part(self, first: int, stop: int) -> "Span":
        """Return some time steps of this span as a span; its inputs are a leaf that requires a gradient as these do."""
        x = self.x[:, first:stop].detach().requires_grad_(self.x.requires_grad)
        counts = None if self.counts is None else (self.counts - first).clamp(0, stop - first)
        return Span(self.number, self.cell, x, counts, self.execute)

    def rows(self, rows: slice) -> "Span":
        """Return some sequences of this span as a span; its inputs are a leaf that requires a gradient as these do."""
        x = self.x[rows].detach().requires_grad_(self.x.requires_grad)
        counts = None if self.counts is None else self.counts[rows]
        those = getattr(self.execute, "rows", None)
        return Span(self.number, self.cell, x, counts, self.execute if those is None else those(rows))

    def left(self, what: str) -> float:
        """Return the relative square that the engine may leave in the latest run's "boundaries" or "messages"."""
        engine = getattr(self.execute, "engine", None)
        if not isinstance(engine, Engine) or self._record is None or getattr(self._record, what) == "exact":
            return 0.0
        controller = engine.controller
        return controller.tolerance if what == "boundaries" else controller.feedback_tolerance

    def run(self, start: Tensor, execute: Execute | None = None) -> tuple[Tensor, Tensor]:
        """Return the outputs `(B, T, d)` and the end `(B, S)` from a start `(B, S)`, in the caller's grad mode."""
        lengths = None if self.counts is None else self.counts.clamp(min=1)
        outputs, end = run_cell(
            self.number, self.cell, self.x, start, lengths, execute or self.execute, backward=False, end=True
        )
        assert end is not None
        engine = getattr(self.execute, "engine", None)
        self._record = engine.records[-1] if isinstance(engine, Engine) and engine.records else None
        if self.counts is not None:
            end = torch.where((self.counts > 0).to(end.device)[:, None], end, start)
        return outputs, end

    @torch.no_grad()
    def summary(self, start: Tensor, tolerance: float, limit: float) -> Affine | None:
        """Return the end from `start`, without outputs, the shortest way: see `forgotten`; else by a roll of the span.

        None for a span that forgets only within all of its time steps: then its outputs are no more work than its end.

        Args:
            start: `(B, S)`.
            tolerance: relative squared difference of states that counts as none.
            limit: bound on the carry.
        """
        cell, counts = self.cell, self.counts
        whole = counts is None or bool(((counts == 0) | (counts == self.steps)).all())
        if not isinstance(cell, Cell) or not whole:  # a state inside the span is wanted, which is among the outputs
            _, end = self.run(start, sequential)
            carry = torch.zeros_like(end)
        else:
            found, within = self.forgotten(start, tolerance) if counts is None else (None, False)
            if found is not None:
                return Affine(found, torch.zeros_like(found), no_link(cell, found))
            if within:
                return None
            end, memory, link = self._rolled(cell, start, 0)
            carry = torch.zeros_like(end)
            carry[:, : cell.memory_size] = memory.nan_to_num(0.0, limit, -limit).clamp(-limit, limit)
            if counts is None:
                return Affine(end, carry, link)
        link = no_link(cell, end)
        if counts is not None:
            empty = (counts == 0).to(end.device)[:, None]
            end, carry = torch.where(empty, start, end), torch.where(empty, 1.0, carry)
        return Affine(end, carry, link)

    def forgotten(self, start: Tensor, tolerance: float) -> tuple[Tensor | None, bool]:
        """Return the end of the span from its last time steps alone, begun at zero; None if it remembers more.
        Return also whether at least all its time steps seem to be enough.

        More and more time steps are tried. Two attempts show how fast the difference of their states fades, and so
        whether a longer one is worth while. The caller compares the result with the true end.
        """
        assert isinstance(self.cell, Cell)
        zero, before, tried, within = torch.zeros_like(start), None, FIRST, False
        while 2 * tried <= self.steps:
            end, _, _ = self._rolled(self.cell, zero, self.steps - tried)
            if before is not None:
                r = distance(end - before, end)
                if r**3 <= tolerance:  # over four times as many time steps it would be r ** 4, were all units alike
                    return end, True
                within = fades(r, tried // GROWTH, self.steps, tolerance)
                if not fades(r, tried // GROWTH, self.steps // 2, tolerance):
                    break
            before, tried = end, GROWTH * tried
        return None, within

    def _rolled(self, cell: Cell, start: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Roll from time step `first` on; return end, product of the carries `(B, M)`, and the last link."""
        size = max(FIRST, min(ROLLED // len(start), self._affords()))
        carry: Tensor | None = None
        link = None
        for i in range(first, self.steps, size):
            piece = self.x[:, i : i + size].transpose(0, 1).contiguous()
            with cell.roll(piece, start, keep=False) as roll:
                start, link = roll.end, roll.link
                carry = roll.carry if carry is None else carry * roll.carry
        assert carry is not None
        return start, carry, link

    @torch.no_grad()
    def head(self, start: Tensor, dout: Tensor | None, tolerance: float) -> Tensor | None:
        """Return the message `(B, S)` at the span's start from its first time steps alone; None if later ones matter.

        A probe of random signs at their end shows how much of any later message arrives.

        Args:
            start: `(B, S)`.
            dout: `(B, T, d)` gradient on the outputs, or None.
            tolerance: relative squared size of a message that counts as none.
        """
        cell, tried = self.cell, FIRST
        if not isinstance(cell, Cell) or self.counts is not None:
            return None
        signs = torch.randint(0, 2, start.shape, generator=torch.Generator().manual_seed(0))
        probe = (2 * signs - 1).to(start)
        while 8 * tried <= self.steps and tried <= self._affords():
            piece = self.x[:, :tried].transpose(0, 1).contiguous()
            with cell.roll(piece, start, keep=True, carry=False) as roll:
                left = distance(roll.backward_state(None, probe), probe)
                if left <= tolerance:
                    if dout is None:
                        return torch.zeros_like(start)
                    return roll.backward_state(dout[:, :tried].transpose(0, 1).contiguous(), None).clone()
            if not fades(left, tried, self.steps // 8, tolerance):
                return None
            tried *= GROWTH
        return None


def distance(gap: Tensor, like: Tensor) -> float:
    """Return the largest mean square of a sequence's gap `(..., B, S)`, relative to the mean square of `like`."""
    scale = like.square().mean().clamp(min=torch.finfo(like.dtype).tiny)
    return float(gap.square().mean(-1).max() / scale)


def fades(left: float, steps: int, most: int, tolerance: float) -> bool:
    """Return whether a square that fell to `left` in some time steps falls to the tolerance in `most` of them."""
    if not left < 1:  # also NaN
        return False
    return left == 0 or math.log(left) * most / steps <= math.log(tolerance)


def no_link(cell: Cell | Projected, end: Tensor) -> Tensor | None:
    """Return a link of zeros for a cell with a visible part of its own, None for others."""
    if not isinstance(cell, Cell) or cell.memory_size == cell.state_size:
        return None
    return torch.zeros_like(end[:, cell.memory_size :])
