"""Many changed states through the same maps: a few are rolled for real, the others predicted from secants.

Let F be the composed maps and h the state that truly occurred. Of p changed states h + d, r are rolled: their changes
at the start are d_k, k = 1..r. Every one has a *base*, the true state or a rolled one near it: c is the base's change,
0 for the true state. With a rolled one's own base c_k, a change d is written as d = c + sum_k w_k (d_k - c_k) + e, and

    F(h + d) = F(h + c) + sum_k w_k (F(h + d_k) - F(h + c_k)) + g e

to first order: exact where F is affine and the changes span d - c, and exact for each of the r states whatever F is.
The rest e is scaled by g, the composed carries of the maps along the true states. Bases matter where a network does not
forget: a lost symbol leaves it in another of a few states (parity has two), where the map has another slope.

A secant over a long change is a poor derivative, so the weights minimise, in units of the standard deviation of each
entry of the state,

    |e|^2 + CURVATURE sum_k (w_k |d_k - c_k|)^4

A small change is then explained by small ones where there are any. Some of the r are bases: each time the change
furthest from all bases so far. The other `DIRECTIONS` are chosen among all d - c, scaled to length one, as those which
the ones before leave unexplained (Gram-Schmidt with pivoting). They are chosen anew on the way, after 1, 2, 4, 6, ...
blocks, at most about `PIECES` times a crossing: fast directions die out first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.attribution.state_maps import StateMaps

CURVATURE = 0.2  # measured: benchmarks.credit, docs/notes/2026-11-24-credit.md
PIECES = 16
RIDGE = 1e-9
DIRECTIONS = 0.6  # of the rolled states: measured, docs/notes/2026-11-28-credit-of-state-tracking.md
FAR = 0.5  # standard deviations: nearer changes are small enough for a linear map
NOISE = 1e-9  # in standard deviations: a shorter change has no direction, only rounding

Spans = list[tuple[int, int]]


class Secants(NamedTuple):
    """Changes of r states that are rolled, and all p changes as combinations of them.

    Attributes:
        chosen: `(m, r, B, 1)` int64, which of the p are rolled.
        base: `(m, p, B, 1)` int64, each one's base: 0 the true state, k the k-th rolled one.
        base_of_rolled: `(m, r, B, 1)` int64, the same of the rolled ones: an earlier one, or the true state.
        weights: `(m, r, B, p)` w.
        rest: `(m, p, B, S)` e, the part of every change that the combination leaves.
    """

    chosen: Tensor
    base: Tensor
    base_of_rolled: Tensor
    weights: Tensor
    rest: Tensor

    def pick(self, states: Tensor) -> Tensor:
        """Pick the r that are rolled out of `(m, p, B, S)`: `(m, r, B, S)`."""
        return states.gather(1, self.chosen.expand(-1, -1, -1, states.shape[-1]))

    def predict(self, true: Tensor, rolled: Tensor) -> Tensor:
        """Follow all p from the true one `(..., m, 1, B, s)` and the r rolled ones `(..., m, r, B, s)`.

        The rest, scaled by the carry, is still to be added, and the rolled ones put in their places (`complete`).
        """
        bases = torch.cat([true, rolled], -3)
        secant = rolled - _gather(bases, self.base_of_rolled)
        return _gather(bases, self.base) + torch.einsum("mrbp,...mrbs->...mpbs", self.weights, secant)

    def complete(self, predicted: Tensor, rolled: Tensor) -> Tensor:
        """Put the r rolled ones `(..., m, r, B, s)` in their places among the p predicted `(..., m, p, B, s)`."""
        return predicted.scatter(-3, self.chosen.expand_as(rolled), rolled)


def secants(changes: Tensor, scale: Tensor, most: int) -> Secants:
    """Choose which `most` of the changes `(m, p, B, S)` are rolled, and explain all of them by these.

    `scale` is `(S,)`, see `scale_of`.
    """
    scaled = changes / scale
    chosen, base = choose(scaled, most)
    bases = torch.cat([torch.zeros_like(changes[:, :1]), _gather(changes, chosen)], 1)
    base_of_rolled = _gather(base, chosen)
    for_rolled = bases[:, 1:] - _gather(bases, base_of_rolled)  # (m, r, B, S)
    left = changes - _gather(bases, base)  # (m, p, B, S)
    weights = explain(for_rolled / scale, left / scale)
    rest = left - torch.einsum("mrbp,mrbs->mpbs", weights, for_rolled)
    return Secants(chosen, base, base_of_rolled, weights, rest)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Pick `(..., m, q, B, s)` out of `(..., m, p, B, s)` by an index `(m, q, B, 1)`."""
    shape = (*values.shape[:-4], *index.shape[:-1], values.shape[-1])
    return values.gather(-3, index.expand(shape))


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
    ends, carry = through(maps, spans, torch.cat([found.pick(states), here], 1))
    ends, carry = ends[:, :-1], carry[:, -1:]
    return found.complete(found.predict(there, ends) + carry * found.rest[..., maps.source], ends)


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


def choose(changes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose those of the changes `(m, p, B, S)` that explain the others best, none twice.

    Returns:
        Indices `(m, count, B, 1)`, and every change's base `(m, p, B, 1)`: 0 for none, k for the k-th chosen.
    """
    shape = changes.shape[:3]
    left, base = changes, changes.new_zeros(shape, dtype=torch.int64)
    near, directions = changes.square().sum(-1), int(DIRECTIONS * count)
    chosen: list[Tensor] = []
    for k in range(count - directions):
        best = _largest(near, chosen)
        chosen.append(best)
        away = changes - _one(changes, best)
        size = away.square().sum(-1)
        closer = (size < near) & (near > FAR**2)
        closer.scatter_(1, best.unsqueeze(1), False)  # what is rolled is not explained by itself
        near, base = torch.where(closer, size, near), torch.where(closer, k + 1, base)
        left = torch.where(closer.unsqueeze(-1), away, left)
    unit = left / left.norm(dim=-1, keepdim=True).clamp(min=NOISE)
    for past in chosen:  # before the first is picked: all are of length one, and rounding would decide
        unit = _without(unit, past)
    for _ in range(directions):
        best = _largest(unit.square().sum(-1), chosen)
        chosen.append(best)
        unit = _without(unit, best)
    return torch.stack(chosen, 1).unsqueeze(-1), base.unsqueeze(-1)


def _largest(size: Tensor, taken: list[Tensor]) -> Tensor:
    """Find the largest of squares `(m, p, B)` that is not taken: its index `(m, B)`; the first where all are noise."""
    size = torch.where(size < NOISE**2, 0.0, size)
    if taken:
        size = size.scatter(1, torch.stack(taken, 1), -1.0)
    return size.argmax(1)


def _one(values: Tensor, index: Tensor) -> Tensor:
    """Pick one of the p of `(m, p, B, S)` by its index `(m, B)`: `(m, 1, B, S)`."""
    return values.gather(1, index[:, None, :, None].expand(-1, 1, -1, values.shape[-1]))


def _without(vectors: Tensor, index: Tensor) -> Tensor:
    """Project the direction of one of the vectors `(m, p, B, S)` out of all of them."""
    direction = torch.nn.functional.normalize(_one(vectors, index), dim=-1)
    return vectors - (vectors * direction).sum(-1, keepdim=True) * direction


def explain(known: Tensor, changes: Tensor) -> Tensor:
    """Return the weights `(m, r, B, p)` of the known changes `(m, r, B, S)` in the changes `(m, p, B, S)`."""
    size = known.norm(dim=-1, keepdim=True).clamp(min=1e-150)
    unit = known / size
    gram = torch.einsum("mrbs,mqbs->mbrq", unit, unit)
    penalty = RIDGE + CURVATURE * size[..., 0].square().transpose(1, 2)  # (m, B, r)
    right = torch.einsum("mrbs,mpbs->mbrp", unit, changes)
    return torch.linalg.solve(gram + torch.diag_embed(penalty), right).transpose(1, 2) / size
