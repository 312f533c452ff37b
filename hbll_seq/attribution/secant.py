"""Many states through the same maps, a few of them rolled for real: secant jumps.

With h the state that truly occurred, F the maps' composition, and d_k = h_k - h the changes of the r states that
are rolled, a further change d is written as d = sum_k w_k d_k + e, and

    F(h + d) = F(h) + sum_k w_k (F(h + d_k) - F(h)) + g e

to second order: exact where F is affine and d in the span, and for each of the r states whatever F is. What is left,
e, jumps by the composed carries g of the maps along the true states. A secant over a long change is a poor
derivative, so the weights minimise, in units of each state unit's standard deviation,

    |e|^2 + CURVATURE sum_k (w_k |d_k|^2)^2 :

a small change is explained by small ones where there are any. Half of the r are chosen as the largest changes that the
others leave unexplained (Gram-Schmidt with pivoting), half in the same way after every change is scaled to length
one: the large ones, and directions for the small. They are chosen anew on the way, after 1, 2, 4, 6, ... blocks, at
most some `PIECES` times a crossing: fast directions die out first.
"""

import torch
from torch import Tensor

from hbll_seq.attribution.state_maps import Chain

CURVATURE = 0.2  # measured: benchmarks.credit, docs/notes/2026-11-24-credit.md
PIECES = 16
RIDGE = 1e-9

Spans = list[tuple[int, int]]


def cross(chain: Chain, spans: Spans, states: Tensor, most: int | None) -> Tensor:
    """States `(m, p, B, S)` through maps i..j-1 of each span `(i, j)`.

    Args:
        chain: see `Chain`.
        spans: only the last may be shorter than the others.
        states: p changed states for each.
        most: how many of a span's p are rolled all the way; None for all.
    """
    if not spans or most is None or states.shape[1] <= most:
        return through(chain, spans, states)[0]
    width = max(j - i for i, j in spans)
    most_a_piece = max(2, width // PIECES)
    done, piece = 0, 1
    while done < width:
        part = [(i + done, min(i + done + piece, j)) for i, j in spans if i + done < j]
        states = torch.cat([jump(chain, part, states[: len(part)], most), states[len(part) :]])
        done += piece
        piece = min(done, most_a_piece)
    return states


def jump(chain: Chain, spans: Spans, states: Tensor, most: int) -> Tensor:
    """`cross` in one piece: `most` of each span's states, chosen at its start, and the true one are rolled."""
    here = torch.stack([chain.states[i] for i, _ in spans]).unsqueeze(1)  # (m, 1, B, S)
    there = torch.stack([chain.states[j] for _, j in spans]).unsqueeze(1)
    scale = scale_of(chain)
    changes = states - here
    index = choose(changes / scale, most).unsqueeze(-1).expand(-1, -1, -1, states.shape[-1])
    known = changes.gather(1, index)
    ends, carry = through(chain, spans, torch.cat([known + here, here], 1))
    ends, carry = ends[:, :-1], carry[:, -1:]
    weights = explain(known / scale, changes / scale)
    rest = changes - torch.einsum("mrbp,mrbs->mpbs", weights, known)
    jumped = there + torch.einsum("mrbp,mrbs->mpbs", weights, ends - there) + carry * rest[..., chain.source]
    return jumped.scatter(1, index, ends)


def scale_of(chain: Chain) -> Tensor:
    """`(S,)` standard deviation of each unit: an LSTM's memory is far larger than its output."""
    return chain.states.std((0, 1)).clamp(min=1e-6)


def through(chain: Chain, spans: Spans, states: Tensor) -> tuple[Tensor, Tensor]:
    """States `(m, R, B, S)` through each span, rolled: ends and composed carries."""
    ends, carry = states, torch.ones_like(states)
    for q in range(max((j - i for i, j in spans), default=0)):
        active = [i + q for i, j in spans if i + q < j]
        new, g = chain.advance(active, ends[: len(active)])
        ends = torch.cat([new, ends[len(active) :]])
        carry = torch.cat([g * carry[: len(active)][..., chain.source], carry[len(active) :]])
    return ends, carry


def choose(changes: Tensor, count: int) -> Tensor:
    """Indices `(m, count, B)`, none twice, of those of the changes `(m, p, B, S)` that explain the others best."""
    large = _pivots(changes, count - count // 2, [])
    small = _pivots(torch.nn.functional.normalize(changes, dim=-1), count // 2, large)
    return torch.stack(large + small, 1)


def explain(known: Tensor, changes: Tensor) -> Tensor:
    """Weights `(m, r, B, p)` of the known changes `(m, r, B, S)` in the changes `(m, p, B, S)`."""
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
