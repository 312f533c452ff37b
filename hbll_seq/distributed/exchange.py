"""The two fixed points over the ranks: the states at the starts of all spans, and the messages at their ends.

A chain of P spans has the equations of a chain of blocks (docs/method.md#blocks-boundaries-two-unknowns), with spans in
the place of blocks: s_{r+1} = F_r(s_r), and l_{r-1} = m_r(l_r), where m_r is the message that span r passes on. Each
rank knows its own F and m. One gather shows the ends (messages) of all spans to all ranks, which fold them alike:

    s'_{r+1} = e_r + A_r (s'_r - s_r)              l'_{r-1} = m_r + A_r (l'_r - l_r)

with the diagonal A_r of `spans.Affine`. Whatever A is, the first k + 1 states (last k + 1 messages) are exact after k
rounds, so P - 1 rounds always suffice (docs/howto/distributed.md derives this and says what is sent).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.distributed.group import Chain
from hbll_seq.distributed.spans import Affine, Span, no_link
from hbll_seq.distributed.trace import Back, Trace

ROUNDING = {torch.float32: 1e-11, torch.float64: 1e-22}  # relative squares that rounding may leave


class Solved(NamedTuple):
    """A solved chain of states.

    Attributes:
        trace: the run of this rank's span.
        last: `(B, S)` end of the chain, the same on all ranks.
        carry, link: `(P, B, S)` and `(P, B, d)` or None: how a change passes each span.
        residual: relative square of the worst gap that is left.
    """

    trace: Trace
    last: Tensor
    carry: Tensor
    link: Tensor | None
    residual: float


def solve_states(chain: Chain, span: Span, start: Tensor, given: float | None) -> Solved:
    """Find the start of this rank's span and run the span from it.

    Args:
        chain: the ranks.
        span: this rank's span. It runs in the caller's grad mode, from a leaf that requires a gradient there.
        start: `(B, S)` start of the chain, the same on all ranks; without a graph.
        given: tolerance, or None for that of rounding.
    """
    tolerance = ROUNDING.get(start.dtype, 1e-11) if given is None else given
    begin = start if chain.place == 0 else torch.zeros_like(start)
    trace: Trace | None = None
    own = span.summary(begin, tolerance, 2.0 ** (100 / chain.size))
    if own is None:
        trace = Trace(span, begin, tolerance)
        own = Affine(trace.end, torch.zeros_like(start), no_link(span.cell, trace.end))
    ends, carry, link = _unpacked(chain.gather(_packed(own)), start.shape[1])
    starts = torch.cat([start[None], torch.zeros_like(ends[1:])])
    starts = _fold_states(span, ends, starts, carry, link)
    for last in range(chain.size + 1):
        mine = starts[chain.place]
        if trace is None:
            trace = Trace(span, mine, tolerance)
        elif not torch.equal(mine, trace.start):
            trace.run(mine)
        ends, floor = _with_floor(chain, trace.end, trace.left("boundaries"))
        residual = _worst(ends[:-1] - starts[1:], ends.square().mean().expand(ends.shape[1]))
        if residual <= max(tolerance, floor) or last == chain.size:
            break
        starts = _fold_states(span, ends, starts, carry, link)
    assert trace is not None
    return Solved(trace, ends[-1], carry, link, residual)


def _fold_states(span: Span, ends: Tensor, starts: Tensor, carry: Tensor, link: Tensor | None) -> Tensor:
    """Return new starts `(P, B, S)` from the ends of a roll from `starts`."""
    new = [starts[0]]
    for r in range(len(ends) - 1):
        change = carry[r] * (new[r] - starts[r])
        if link is not None:
            m = change.shape[1] - link.shape[2]
            change[:, m:] += link[r] * change[:, :m]
        one = ends[r] + change
        if isinstance(span.cell, Cell):  # an end itself may lie outside the range: a given start that was passed on
            one = torch.where(change == 0, ends[r], span.cell.clamp(one, starts[0]))
        new.append(one)
    return torch.stack(new)


class Messages(NamedTuple):
    """A solved chain of messages.

    Attributes:
        start: `(B, S)` gradient on the chain's start, the same on all ranks.
        residual: relative square of the worst gap that is left.
    """

    start: Tensor
    residual: float


def solve_messages(
    chain: Chain, span: Span, solved: Solved, back: Back, dout: Tensor | None, dlast: Tensor | None,
    gamma: Tensor | None, given: float | None,
) -> Messages:  # fmt: skip
    """Find the message at the end of this rank's span and pass it back over the span.

    Args:
        chain: the ranks.
        span: this rank's span.
        solved: its solved states.
        back: passes back over it.
        dout: `(B, T, d)` gradient on its outputs, or None.
        dlast: `(B, S)` this rank's share of the gradient on the end of the chain, or None. Shares are summed.
        gamma: `(B, 1)` discount of the message that enters this span at its end from the next one, or None for 1.
        given: tolerance, or None for that of rounding.
    """
    start = solved.trace.start
    tolerance, size = ROUNDING.get(start.dtype, 1e-11) if given is None else given, start.shape[1]
    scale = start.new_zeros(len(start), 1)
    if dout is not None:
        scale = _largest(dout)[:, None].to(start)
        if not bool(scale.any()):
            dout = None
    head = span.head(start, dout, tolerance)
    passed = torch.zeros_like(start) if head is not None else solved.carry[chain.place]
    factor = torch.ones_like(scale) if gamma is None or chain.place == chain.size - 1 else gamma.to(scale)
    parts = [
        torch.zeros_like(start) if head is None else head, passed * factor,
        torch.zeros_like(start) if dlast is None else dlast.to(start), scale,
    ]  # fmt: skip
    found = chain.gather(torch.cat(parts, 1))
    passing, carry, shares, scales = found.split([size, size, size, 1], 2)
    last = shares.sum(0)
    squares = torch.maximum(scales.square().amax(0), last.square().mean(-1, keepdim=True)).squeeze(-1)  # (B,)
    messages = _fold_messages(passing, torch.zeros_like(passing), last, carry, solved.link)
    mine = messages[chain.place]
    back.add(dout, _some(mine * factor))
    for i in range(chain.size + 1):
        passing, floor = _with_floor(chain, back.start, solved.trace.left("messages"))
        squares = torch.maximum(squares, passing.square().mean(-1).amax(0))
        residual = _worst(passing[1:] - messages[:-1], squares)
        if residual <= max(tolerance, floor) or i == chain.size:
            break
        messages = _fold_messages(passing, messages, last, carry, solved.link)
        back.add(None, _some((messages[chain.place] - mine) * factor), tolerance * squares)
        mine = messages[chain.place]
    return Messages(passing[0], residual)


def _fold_messages(passing: Tensor, before: Tensor, last: Tensor, carry: Tensor, link: Tensor | None) -> Tensor:
    """Return the messages `(P, B, S)` at the ends of all spans, from those that the spans pass on for `before`."""
    new = [last]
    for r in range(len(passing) - 1, 0, -1):
        change = new[-1] - before[r]
        if link is not None:
            m = change.shape[1] - link.shape[2]
            change = change.clone()
            change[:, :m] += link[r] * change[:, m:]
        new.append(passing[r] + carry[r] * change)
    return torch.stack(new[::-1])


def _with_floor(chain: Chain, mine: Tensor, left: float) -> tuple[Tensor, float]:
    """Gather `(B, S)` of all ranks, and the largest residual that a rank's engine may leave inside its span."""
    found = chain.gather(torch.cat([mine, torch.full_like(mine[:, :1], left)], 1))
    return found[..., :-1], float(found[:, 0, -1].max())


def _largest(x: Tensor) -> Tensor:
    """Return the largest absolute value of every sequence `(B,)` of `(B, T, d)`.

    `torch.linalg.vector_norm` of the order infinity takes over ten times as long on a CPU.
    """
    return torch.stack([torch.maximum(high, -low) for low, high in map(torch.aminmax, x.unbind(0))])


def _some(message: Tensor) -> Tensor | None:
    """Return a message, or None if it is zero."""
    return message if bool(message.any()) else None


def _worst(gap: Tensor, squares: Tensor) -> float:
    """Return the largest mean square of gaps `(P-1, B, S)`, relative to `squares` `(B,)`."""
    tiny = torch.finfo(gap.dtype).tiny
    return float((gap.square().mean(-1) / squares.clamp(min=tiny)).max())


def _packed(own: Affine) -> Tensor:
    return torch.cat([own.end, own.carry, *([] if own.link is None else [own.link])], 1)


def _unpacked(found: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
    link = found[..., 2 * size :]
    return found[..., :size], found[..., size : 2 * size], link if link.shape[-1] else None
