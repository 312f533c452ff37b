"""Many states through the same maps, a few of them rolled for real: secant jumps.

With h the state that truly occurred, F the maps' composition, and d_k = h_k - h the changes of r states that
are rolled, a further change d is written as d = sum_k w_k d_k + e by least squares, and

    F(h + d) = F(h) + sum_k w_k (F(h + d_k) - F(h)) + g e

to second order: exact where F is affine and d in the span, and for each of the r states whatever F is. What is left,
e, jumps by the composed carries g of the maps. The r are chosen one by one as what the others leave unexplained
(Gram-Schmidt with pivoting), so they are the changes that matter.
"""

import torch
from torch import Tensor

from hbll_seq.credit.chain import Chain

RIDGE = 1e-6


def choose(change: Tensor, count: int) -> Tensor:
    """Indices `(m, count, B)` of the changes `(m, p, B, S)` that span the others best."""
    left = change.clone()
    chosen = []
    for _ in range(count):
        size = left.square().sum(-1)  # (m, p, B)
        for past in chosen:
            size.scatter_(1, past.unsqueeze(1), -1.0)
        best = size.argmax(1)  # (m, B)
        chosen.append(best)
        index = best[:, None, :, None].expand(-1, 1, -1, change.shape[-1])
        direction = torch.nn.functional.normalize(left.gather(1, index), dim=-1)
        left = left - (left * direction).sum(-1, keepdim=True) * direction
    return torch.stack(chosen, 1)


def through(chain: Chain, spans: list[tuple[int, int]], states: Tensor) -> tuple[Tensor, Tensor]:
    """States `(m, R, B, S)` through maps i..j-1 of each span `(i, j)`, rolled: ends and composed carries.

    Only the last span may be shorter than the others.
    """
    ends, carry = states, torch.ones_like(states)
    for q in range(max((j - i for i, j in spans), default=0)):
        active = [i + q for i, j in spans if i + q < j]
        new, g = chain.advance(active, ends[: len(active)])
        ends = torch.cat([new, ends[len(active) :]])
        carry = torch.cat([g * carry[: len(active)][..., chain.source], carry[len(active) :]])
    return ends, carry


def cross(chain: Chain, spans: list[tuple[int, int]], states: Tensor, most: int | None) -> Tensor:
    """States `(m, p, B, S)` through the maps of each span, at most `most` of a span's p rolled; None rolls all."""
    if not spans:
        return states
    p = states.shape[1]
    if most is None or p <= most:
        return through(chain, spans, states)[0]
    here = torch.stack([chain.states[i] for i, _ in spans]).unsqueeze(1)  # (m, 1, B, S)
    there = torch.stack([chain.states[j] for _, j in spans]).unsqueeze(1)
    change = states - here
    picked = choose(change, most)
    index = picked.unsqueeze(-1).expand(-1, -1, -1, states.shape[-1])
    ends, carry = through(chain, spans, states.gather(1, index))
    known, moved = change.gather(1, index), ends - there
    weights, left = explain(known, change)
    carry = carry.mean(1, keepdim=True)
    out = there + torch.einsum("mrbp,mrbs->mpbs", weights, moved) + carry * left[..., chain.source]
    return out.scatter(1, index, ends)


def explain(known: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares weights `(m, r, B, p)` of the known changes `(m, r, B, S)`, and what they leave `(m, p, B, S)`."""
    scale = known.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    unit = known / scale
    gram = torch.einsum("mrbs,mqbs->mbrq", unit, unit)
    gram = gram + RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    right = torch.einsum("mrbs,mpbs->mbrp", unit, change)
    weights = torch.linalg.solve(gram, right).transpose(1, 2) / scale  # (m, r, B, p)
    return weights, change - torch.einsum("mrbp,mrbs->mpbs", weights, known)
