"""Spans in a pipeline: a rank runs its span of some sequences while the rank before it runs the next ones.

`exchange` guesses states so that all spans run at once. Where dynamics do not forget, guesses are wrong and spans run
again, so that P ranks are no faster than one. A pipeline guesses nothing. The batch is cut into M micro-batches. A rank
runs its span of a micro-batch from the state that the rank before it sends, and sends the end on. Messages go the other
way. Nothing runs twice: a step takes (M + P - 1) / (M P) of the time of one process, if a micro-batch takes its share
of the time of the batch (docs/howto/distributed.md#memory-that-does-not-fade).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge

from hbll_seq.cells import own_precision
from hbll_seq.distributed.cuts import even_spans
from hbll_seq.distributed.group import Chain
from hbll_seq.distributed.spans import Span
from hbll_seq.distributed.trace import added, edge


class Part(NamedTuple):
    """One micro-batch of a span that was run.

    Attributes:
        rows: its sequences.
        span: its inputs, a leaf.
        start: `(b, S)`, a leaf.
        heads: where the graph of outputs and end begins, on its way back; None where there is none.
    """

    rows: slice
    span: Span
    start: Tensor
    heads: tuple[GradientEdge | None, GradientEdge | None]


def run_pipeline(
    chain: Chain, span: Span, start: Tensor, gamma: Tensor | None, count: int, last: bool
) -> tuple[Tensor, Tensor | None]:
    """Run this rank's span of a cell in micro-batches; see `layer.run_span`.

    Args:
        chain: the ranks.
        span: this rank's span.
        start: `(B, S)` start of the whole chain, the same on all ranks.
        gamma: `(B, 1)` discount of the message that enters the span from the next one, or None.
        count: micro-batches; of fewer sequences than that each is one.
        last: whether the end of the chain is wanted. To give it to all ranks, the first ones wait for the last.

    Returns:
        Outputs `(B, T, d)` of the span; and the end `(B, S)` of the chain, the same on all ranks, or None.
    """
    if not torch.is_grad_enabled():
        outputs, end, _ = _forward(chain, span, start, count, last)
        return outputs, end
    weights = [one for one in span.cell.parameters() if one.requires_grad]
    found: tuple[Tensor, Tensor | None] = _Pipeline.apply(start, span.x, chain, span, gamma, count, last, *weights)
    return found


class _Pipeline(torch.autograd.Function):
    """The node; its inputs are the chain's start, the span's inputs, and the weights."""

    @staticmethod
    def forward(
        ctx: Any, start: Tensor, x: Tensor, chain: Chain, span: Span, gamma: Tensor | None, count: int, last: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        ctx.set_materialize_grads(False)
        span.x = x.detach().requires_grad_(x.requires_grad)
        with torch.enable_grad():
            outputs, end, parts = _forward(chain, span, start.detach(), count, last)
        chain.passed(0.0)
        ctx.given = chain, parts, gamma, last, list(weights)
        return outputs, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlast: Tensor | None) -> Any:
        chain, parts, gamma, last, weights = ctx.given
        rows, like = parts[-1].rows.stop, parts[0].start
        if last:  # every rank has its share of the gradient on the end
            dlast = chain.sum(like.new_zeros(rows, like.shape[1]) if dlast is None else dlast.to(like).clone())
        with own_precision(like):
            passed, dx, sums = _backward(chain, parts, gamma, dout, dlast, weights, ctx.needs_input_grad[1])
        chain.passed(0.0)
        dstart = chain.gather(passed)[0] / chain.size if ctx.needs_input_grad[0] else None
        return dstart, dx, None, None, None, None, None, *sums


def _forward(
    chain: Chain, span: Span, start: Tensor, count: int, last: bool
) -> tuple[Tensor, Tensor | None, list[Part]]:  # fmt: skip
    """Run all micro-batches; return outputs and the chain's end, both without a graph, and the parts with theirs."""
    parts, outputs, ends, stop = list[Part](), list[Tensor](), list[Tensor](), 0
    for size in even_spans(len(start), min(count, len(start))):
        rows, stop = slice(stop, stop + size), stop + size
        here = start[rows] if chain.place == 0 else chain.receive(start[rows], chain.place - 1)
        leaf = here.detach().clone().requires_grad_(torch.is_grad_enabled())
        part = span.rows(rows)
        out, end = part.run(leaf)
        ends.append(end.detach().clone())
        if chain.place < chain.size - 1:
            chain.send(ends[-1], chain.place + 1)
        outputs.append(out.detach())
        parts.append(Part(rows, part, leaf, (edge(out), edge(end))))
    chain.sent()
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined, chain.gather(torch.cat(ends))[-1] if last else None, parts


def _backward(
    chain: Chain, parts: list[Part], gamma: Tensor | None, dout: Tensor | None, dlast: Tensor | None,
    weights: list[Tensor], inputs: bool,
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:  # fmt: skip
    """Pass all micro-batches back; return the messages `(B, S)` at the span's start, and the gradients on inputs and
    weights.
    """
    passed, dx = list[Tensor](), list[Tensor]()
    sums: list[Tensor | None] = [None] * len(weights)
    for part in parts:
        if chain.place == chain.size - 1:
            dend = torch.zeros_like(part.start) if dlast is None else dlast[part.rows]
        else:
            dend = chain.receive(part.start, chain.place + 1)
            dend = dend if gamma is None else dend * gamma[part.rows].to(dend)
        given = (None if dout is None else dout[part.rows], dend)
        pairs = [(h, g) for h, g in zip(part.heads, given, strict=True) if h is not None and g is not None]
        heads, grads = zip(*pairs, strict=True)
        by = [part.start, *([part.span.x] if inputs else []), *weights]
        message, *found = torch.autograd.grad(heads, by, grads, retain_graph=True, allow_unused=True)
        passed.append(torch.zeros_like(part.start) if message is None else message)
        if chain.place:
            chain.send(passed[-1], chain.place - 1)
        if inputs:
            dx.append(torch.zeros_like(part.span.x) if found[0] is None else found[0])
            found = found[1:]
        sums = [added(a, b) for a, b in zip(sums, found, strict=True)]
    chain.sent()
    return torch.cat(passed), torch.cat(dx) if inputs else None, sums
