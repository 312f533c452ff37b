"""`Trace`: a span that was run, in pieces; a new start runs, and a message differentiates, only the pieces it reaches.

Pieces are short at both ends of a long span and long in the middle. Where dynamics forget within a span, a corrected
start meets the old states after some pieces, and a corrected message fades before it reaches the first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hbll_seq.distributed.spans import Span, distance

LEAST = 2048  # time steps of a span in pieces
CUTS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8)


@dataclass
class Piece:
    """Some time steps of a span: inputs and start without a graph before them, outputs and end with one from there.

    Attributes:
        span: the time steps.
        start: `(B, S)`.
        outputs: `(B, T, d)`, until `let_go`; then an empty tensor.
        end: `(B, S)`, without a graph.
        heads: where the graph of outputs and end begins, on its way back; None where there is none.
    """

    span: Span
    start: Tensor
    outputs: Tensor
    end: Tensor
    heads: tuple[GradientEdge | None, GradientEdge | None]

    def let_go(self) -> Tensor:
        """Return the outputs, without a graph, and keep their place in it alone."""
        found, self.outputs = self.outputs, self.outputs.new_empty(0)
        return found


class Trace:
    """The run of a span from a start; with gradients, if they are enabled.

    Args:
        span: this rank's span.
        start: `(B, S)`, without a graph.
        tolerance: relative square of a difference that counts as none.

    Attributes:
        end: `(B, S)`, without a graph.
        start: `(B, S)`.
        rounds: runs of any pieces so far.
        rolled: time steps run so far.
    """

    def __init__(self, span: Span, start: Tensor, tolerance: float) -> None:
        self._spans = _cut(span)
        self._tolerance, self._pieces = tolerance, list[Piece]()
        self.rounds = self.rolled = 0
        self.run(start)

    def run(self, start: Tensor) -> None:
        """Run the pieces that another start reaches."""
        self.start, self.rounds = start.detach().clone(), self.rounds + 1
        here, old, self._pieces = self.start, self._pieces, []
        for i, span in enumerate(self._spans):
            if i and old and distance(here - old[i].start.detach(), here) <= self._tolerance:
                self._pieces += old[i:]
                break
            if old:
                old[i].let_go()  # the old graphs go before the new ones come
                old[i].heads = None, None
            leaf = here.detach().clone().requires_grad_(torch.is_grad_enabled())
            outputs, end = span.run(leaf)
            self.rolled += span.steps
            here = end.detach().clone()  # it may be a view of the outputs
            self._pieces.append(Piece(span, leaf, outputs.detach(), here, (edge(outputs), edge(end))))
        self.end = self._pieces[-1].end

    def outputs(self) -> Tensor:
        """Return the outputs `(B, T, d)`, once, without a graph; the pieces do not keep them."""
        if len(self._pieces) == 1:
            return self._pieces[0].let_go()
        first = self._pieces[0].outputs
        joined = first.new_empty(len(first), sum(one.span.steps for one in self._pieces), first.shape[2])
        stop = 0
        for one in self._pieces:
            joined[:, stop : stop + one.span.steps] = one.let_go()
            stop += one.span.steps
        return joined

    def left(self, what: str) -> float:
        """See `Span.left`: the largest of all pieces."""
        return max(one.span.left(what) for one in self._pieces)

    def pieces(self) -> list[Piece]:
        """Return the pieces in order."""
        return self._pieces


class Back:
    """Passes back over a traced span: gradients on outputs and end in, gradients on start, inputs and weights out.

    Args:
        trace: the span.
        weights: tensors to differentiate by.
        inputs: whether the gradient on the inputs is wanted.

    Attributes:
        start: `(B, S)` gradient on the span's start, summed over passes.
        weights: gradients on the weights, likewise; None where there is none.
        passes: passes so far.
        passed: time steps passed over so far.
    """

    def __init__(self, trace: Trace, weights: list[Tensor], inputs: bool) -> None:
        self._pieces, self._by, self._inputs = trace.pieces(), weights, inputs
        self.start = torch.zeros_like(trace.start)
        self.weights: list[Tensor | None] = [None] * len(weights)
        self._dx: list[Tensor | None] = [None] * len(self._pieces)
        self.passes = self.passed = 0

    def add(self, dout: Tensor | None, dend: Tensor | None, least: Tensor | None = None) -> None:
        """Add the gradients from `dout` `(B, T, d)` and `dend` `(B, S)`; None stands for zero.

        Without `dout` the pass ends where the mean square of every sequence's message is at most `least` `(B,)`.
        """
        stop = sum(one.span.steps for one in self._pieces)
        self.passes += dout is not None or dend is not None
        for i in range(len(self._pieces) - 1, -1, -1):
            piece = self._pieces[i]
            first = stop - piece.span.steps
            if dout is None and dend is not None and least is not None and i < len(self._pieces) - 1:
                if bool((dend.square().mean(1) <= least).all()):
                    return
            given = None if dout is None else dout[:, first:stop]
            dend, stop = self._through(i, piece, given, dend), first
        if dend is not None:
            self.start = self.start + dend

    def _through(self, i: int, piece: Piece, dout: Tensor | None, dend: Tensor | None) -> Tensor | None:
        """Pass back over one piece; return the message at its start."""
        pairs = [(h, g) for h, g in zip(piece.heads, (dout, dend), strict=True) if g is not None and h is not None]
        if not pairs:
            return None
        heads, given = zip(*pairs, strict=True)
        by = [piece.start, *([piece.span.x] if self._inputs else []), *self._by]
        message, *found = torch.autograd.grad(heads, by, given, retain_graph=True, allow_unused=True)
        self.passed += piece.span.steps
        if self._inputs:
            self._dx[i] = added(self._dx[i], found.pop(0))
        self.weights = [added(a, b) for a, b in zip(self.weights, found, strict=True)]
        return message

    def inputs(self) -> Tensor | None:
        """Return the gradient on the inputs `(B, T, D)`, if it is wanted."""
        if not self._inputs:
            return None
        parts = [torch.zeros_like(p.span.x) if g is None else g for p, g in zip(self._pieces, self._dx, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def edge(x: Tensor) -> GradientEdge | None:
    """Return where the graph of a tensor begins; None without a graph."""
    return get_gradient_edge(x) if x.requires_grad else None


def added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Return the sum of two tensors, of which None stands for zero."""
    return other if one is None else one if other is None else one + other


def _cut(span: Span) -> list[Span]:
    """Return the pieces of a span as spans; a span with sequences that end inside is one piece."""
    if span.steps < LEAST or span.counts is not None or not span.divisible:
        places = [0, span.steps]
    else:
        places = [0, *(int(span.steps * one) for one in CUTS), span.steps]
    return [span.part(a, b) for a, b in zip(places, places[1:], strict=False)]
