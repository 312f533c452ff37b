"""One cell over spans on several ranks: the autograd node that exchanges states forward and messages backward.

Inside the node a graph from the span's start to its outputs and end is made by whatever runs the cell (an engine, a
rule, PyTorch). The node solves for the start before that graph is used, and for the message at the end before it is
differentiated. So every rank has its own span's part of the gradient. The parts of all ranks add up to the gradient of
the sum of all ranks' losses.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hbll_seq.cells import Cell, own_precision
from hbll_seq.distributed.exchange import solve_messages, solve_states
from hbll_seq.distributed.group import Chain
from hbll_seq.distributed.spans import Span
from hbll_seq.distributed.trace import Back


def run_span(
    chain: Chain, span: Span, start: Tensor, gamma: Tensor | None, tolerance: float | None
) -> tuple[Tensor, Tensor]:
    """Run this rank's span of a cell.

    Args:
        chain: the ranks.
        span: this rank's span.
        start: `(B, S)` start of the whole chain, the same on all ranks.
        gamma: `(B, 1)` discount of the message that enters the span from the next one, or None.
        tolerance: see `exchange`.

    Returns:
        Outputs `(B, T, d)` of the span; and the end `(B, S)` of the chain, the same on all ranks.
    """
    span.divisible &= gamma is None  # messages are discounted between credit blocks, which pieces would cut
    if not torch.is_grad_enabled():
        solved = solve_states(chain, span, start, tolerance)
        return solved.trace.outputs(), solved.last
    weights = [one for one in span.cell.parameters() if one.requires_grad]
    outputs, last = _Spread.apply(start, span.x, chain, span, gamma, tolerance, *weights)
    return outputs, last


class _Spread(torch.autograd.Function):
    """The node; its inputs are the chain's start, the span's inputs, and the weights."""

    @staticmethod
    def forward(
        ctx: Any, start: Tensor, x: Tensor, chain: Chain, span: Span, gamma: Tensor | None, tolerance: float | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.set_materialize_grads(False)
        span.x = x.detach().requires_grad_(x.requires_grad)
        with torch.enable_grad():
            solved = solve_states(chain, span, start.detach(), tolerance)
        chain.passed(max(0.0, solved.trace.rolled / span.steps - 1))
        ctx.given = chain, span, solved, gamma, tolerance, list(weights)
        return solved.trace.outputs(), solved.last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlast: Tensor | None) -> Any:
        chain, span, solved, gamma, tolerance, weights = ctx.given
        back = Back(solved.trace, weights, ctx.needs_input_grad[1])
        with own_precision(solved.trace.start):
            messages = solve_messages(chain, span, solved, back, dout, dlast, gamma, tolerance)
        chain.passed(max(0.0, back.passed / span.steps - 1))
        # every rank has the start: each has its share of the gradient, as of a weight
        dstart = messages.start / chain.size if ctx.needs_input_grad[0] else None
        return dstart, back.inputs(), None, None, None, None, *back.weights


def zero_start(cell: Any, rows: int, like: Tensor) -> Tensor:
    """Return the zero state `(rows, S)` of a cell, also of a projecting one."""
    if isinstance(cell, Cell):
        weights = cell.parameters()
        return cell.initial(rows, weights[0].detach() if weights else like.detach())
    *_, w_hr = cell.parameters()
    return w_hr.detach().new_zeros(rows, sum(w_hr.shape))
