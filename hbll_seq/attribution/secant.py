"""Many changed states through the same maps: a few are rolled for real, the others predicted from secants.

Let F be the composed maps and h the state that truly occurred. Of p changed states, r are rolled: their changes at the
start are d_k, k = 1..r, and at the end F(h + d_k) - F(h). A further change d is written as d = sum_k w_k d_k + e, and

    F(h + d) = F(h) + sum_k w_k (F(h + d_k) - F(h)) + g e

to first order: exact where F is affine and d in the span, and exact for each of the r states whatever F is. The rest e
is scaled by g, the composed carries of the maps along the true states. A secant over a long change is a poor
derivative, so the weights minimise, in units of the standard deviation of each entry of the state,

    |e|^2 + CURVATURE sum_k (w_k |d_k|^2)^2

A small change is then explained by small ones where there are any. Half of the r are the largest changes that the
others leave unexplained (Gram-Schmidt with pivoting). The other half are chosen in the same way after every change is
scaled to length one: directions for the small changes. They are chosen anew on the way, after 1, 2, 4, 6, ... blocks,
at most about `PIECES` times a crossing: fast directions die out first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.attribution.state_maps import StateMaps

CURVATURE = 0.2  # measured: benchmarks.credit, docs/notes/2026-11-24-credit.md
PIECES = 16
RIDGE = 1e-9

Spans = list[tuple[int, int]]


class Secants(NamedTuple):
    """Changes of r states that are rolled, and all p changes as combinations of them.

    Attributes:
        chosen: `(m, r, B, 1)` int64, which of the p are rolled.
        known: `(m, r, B, S)` d_k, their changes at the start.
        weights: `(m, r, B, p)` w.
        rest: `(m, p, B, S)` e, the part of every change that the combination leaves.
    """

    chosen: Tensor
    known: Tensor
    weights: Tensor
    rest: Tensor

    def pick(self, states: Tensor) -> Tensor:
        """Pick the r that are rolled out of `(m, p, B, S)`: `(m, r, B, S)`."""
        return states.gather(1, self.chosen.expand(-1, -1, -1, states.shape[-1]))

    def combine(self, changes: Tensor) -> Tensor:
        """Combine changes of the rolled ones `(..., m, r, B, s)`, sum_k w_k: `(..., m, p, B, s)`."""
        return torch.einsum("mrbp,...mrbs->...mpbs", self.weights, changes)

    def complete(self, predicted: Tensor, rolled: Tensor) -> Tensor:
        """Put the r rolled ones `(..., m, r, B, s)` in their places among the p predicted `(..., m, p, B, s)`."""
        return predicted.scatter(-3, self.chosen.expand_as(rolled), rolled)


def secants(changes: Tensor, scale: Tensor, most: int) -> Secants:
    """Choose which `most` of the changes `(m, p, B, S)` are rolled, and explain all of them by these.

    `scale` is `(S,)`, see `scale_of`.
    """
    chosen = choose(changes / scale, most).unsqueeze(-1)
    known = changes.gather(1, chosen.expand(-1, -1, -1, changes.shape[-1]))
    weights = explain(known / scale, changes / scale)
    return Secants(chosen, known, weights, changes - torch.einsum("mrbp,mrbs->mpbs", weights, known))


def cross(maps: StateMaps, spans: Spans, states: Tensor, most: int | None) -> Tensor:
    """Take states `(m, p, B, S)` through maps i..j-1 of each span `(i, j)`.

    Args:
        maps: see `StateMaps`.
        spans: only the last may be shorter than the others.
        states: p changed states for each.
        most: r, how many of a span's p are rolled all the way; None for all.
    """
    if not spans or most is None or states.shape[1] <= most:
        return through(maps, spans, states)[0]
    width = max(j - i for i, j in spans)
    most_a_piece = max(2, width // PIECES)
    done, piece = 0, 1
    while done < width:
        part = [(i + done, min(i + done + piece, j)) for i, j in spans if i + done < j]
        states = torch.cat([_cross_piece(maps, part, states[: len(part)], most), states[len(part) :]])
        done += piece
        piece = min(done, most_a_piece)
    return states


def _cross_piece(maps: StateMaps, spans: Spans, states: Tensor, most: int) -> Tensor:
    """`cross` with the rolled states chosen once, at the start of each span; the true one is rolled with them."""
    here = torch.stack([maps.states[i] for i, _ in spans]).unsqueeze(1)  # (m, 1, B, S)
    there = torch.stack([maps.states[j] for _, j in spans]).unsqueeze(1)
    found = secants(states - here, scale_of(maps), most)
    ends, carry = through(maps, spans, torch.cat([found.known + here, here], 1))
    ends, carry = ends[:, :-1], carry[:, -1:]
    return found.complete(there + found.combine(ends - there) + carry * found.rest[..., maps.source], ends)


def scale_of(maps: StateMaps) -> Tensor:
    """Return the standard deviation of each entry of the state, `(S,)`; an LSTM's memory is larger than its output."""
    return maps.states.std((0, 1)).clamp(min=1e-6)


def through(maps: StateMaps, spans: Spans, states: Tensor) -> tuple[Tensor, Tensor]:
    """Roll states `(m, R, B, S)` through each span; return ends and composed carries."""
    ends, carry = states, torch.ones_like(states)
    for q in range(max((j - i for i, j in spans), default=0)):
        active = [i + q for i, j in spans if i + q < j]
        new, g = maps.advance(active, ends[: len(active)])
        ends = torch.cat([new, ends[len(active) :]])
        carry = torch.cat([g * carry[: len(active)][..., maps.source], carry[len(active) :]])
    return ends, carry


def choose(changes: Tensor, count: int) -> Tensor:
    """Choose those of the changes `(m, p, B, S)` that explain the others best: indices `(m, count, B)`, none twice."""
    large = _pivots(changes, count - count // 2, [])
    # all are of length one now: rounding decides which comes first
    small = _pivots(torch.nn.functional.normalize(changes, dim=-1), count // 2, large)
    return torch.stack(large + small, 1)


def explain(known: Tensor, changes: Tensor) -> Tensor:
    """Return the weights `(m, r, B, p)` of the known changes `(m, r, B, S)` in the changes `(m, p, B, S)`."""
    size = known.norm(dim=-1, keepdim=True).clamp(min=1e-150)
    unit = known / size
    gram = torch.einsum("mrbs,mqbs->mbrq", unit, unit)
    penalty = RIDGE + CURVATURE * size[..., 0].square().transpose(1, 2)  # (m, B, r)
    right = torch.einsum("mrbs,mpbs->mbrp", unit, changes)
    return torch.linalg.solve(gram + torch.diag_embed(penalty), right).transpose(1, 2) / size


def _pivots(vectors: Tensor, count: int, taken: list[Tensor]) -> list[Tensor]:
    """`count` indices `(m, B)` of vectors `(m, p, B, S)`, each the longest once the earlier ones are projected out."""
    left, taken, found = vectors, list(taken), []
    for _ in range(count):
        size = left.square().sum(-1)  # (m, p, B)
        for past in taken:
            size.scatter_(1, past.unsqueeze(1), -1.0)
        best = size.argmax(1)
        taken.append(best)
        found.append(best)
        index = best[:, None, :, None].expand(-1, 1, -1, vectors.shape[-1])
        direction = torch.nn.functional.normalize(left.gather(1, index), dim=-1)
        left = left - (left * direction).sum(-1, keepdim=True) * direction
    return found
