"""Linear read-out and cross-entropy with their gradients in one pass, float32 on the CPU.

    logits = h W^T + b        loss = -log softmax(logits)[y]        dlogits = weight (softmax - onehot(y))

The reference of its tests is `torch.nn.functional.cross_entropy`, which makes five passes over the logits, forward and
backward. Here there is one, a slice of rows at a time, so that logits stay in the cache.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hbll_seq.kernels import machine
from hbll_seq.kernels.buffers import give, take

SLICE = 1 << 18  # logits at a time: a megabyte


class ReadOut(NamedTuple):
    """Losses `(M,)`, gradients on h `(M, d)` (a work buffer), weight `(V, d)` and bias `(V,)` (None without)."""

    losses: Tensor
    dh: Tensor
    weight: Tensor | None
    bias: Tensor | None


def linear_cross_entropy(
    h: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, weights: Tensor, *, gradients: bool
) -> ReadOut:
    """Compute the losses of M rows and the gradients of their weighted sum.

    Args:
        h: `(M, d)`.
        weight, bias: parameters of the read-out, `(V, d)`, `(V,)`.
        y: `(M,)` int64 in 0..V-1.
        weights: `(M,)` weights of the rows in the sum.
        gradients: also compute those on weight and bias.
    """
    h, w, m, v = h.detach(), machine.target().width, len(h), len(weight)
    width = -(-v // w) * w
    weight = weight.detach()
    bias = weight.new_zeros(v) if bias is None else bias.detach()
    if width != v:
        weight, bias = (
            pad(weight, (0, 0, 0, width - v)),
            pad(bias, (0, width - v), value=-1e30),
        )  # not a class of any row
    y = y.contiguous()
    sums, gaps, dh = h.new_empty(m), h.new_empty(m), take((m, h.shape[1]), h)
    rows = min(m, max(1, SLICE // width))
    logits = take((rows, width), h)
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)
    for i in range(0, m, rows):
        j = min(i + rows, m)
        some = logits[: j - i]
        torch.addmm(bias, h[i:j], weight.t(), out=some)
        machine.softmax()([some, y[i:j], weights[i:j], sums[i:j], gaps[i:j]], 1, j - i, width)
        torch.mm(some, weight, out=dh[i:j])
        if gradients:
            dweight.addmm_(some.t(), h[i:j])
            dbias += some.sum(0)
    give(logits)
    losses = sums.log_().add_(gaps)
    return ReadOut(losses, dh, dweight[:v] if gradients else None, dbias[:v] if gradients else None)
