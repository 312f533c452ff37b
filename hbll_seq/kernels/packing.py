"""The memory layout of compiled rolls: units padded to whole vectors, weights in the order of reading.

A padded unit has zero weights and zero inputs, so it stays zero and adds nothing.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def padded(x: Tensor, groups: int, d: int, units: int) -> Tensor:
    """Pad `(..., groups * d) -> (..., groups * units)`, contiguous; return x itself if nothing is to do."""
    if d == units:
        return x.contiguous()
    return pad(x.unflatten(-1, (groups, d)), (0, units - d)).flatten(-2)


def padded_weight(weight: Tensor | None, gates: int, d: int, units: int) -> Tensor:
    """Pad `(gates * d, d) -> (gates, units, units)`; return zeros `(1, units, units)` for None."""
    if weight is None:
        return torch.zeros(1, units, units)
    weight = weight.detach().view(gates, d, d)
    return weight if d == units else pad(weight, (0, units - d, 0, units - d))


def packed(weight: Tensor, w: int) -> Tensor:
    """Pack `(gates, units out, units in) -> (units out / w, units in, gates, w)`, a gate at a time."""
    gates, units, count = weight.shape
    out = weight.new_empty(units // w, count, gates, w)
    for g in range(gates):
        out[:, :, g] = weight[g].view(units // w, w, count).transpose(1, 2)
    return out


def packed_pairs(weight: Tensor, w: int) -> Tensor:
    """Pack `(gates, units out, units in) -> (units out / w, units in / 2, gates, w)` pairs of bfloat16."""
    return packed(weight.bfloat16().view(torch.int32), w)


def paired(weight: Tensor) -> Tensor:
    """Pack `(panels, k, wide) -> (panels, k / 2, wide, 2)` bfloat16."""
    return weight.bfloat16().unflatten(1, (-1, 2)).transpose(2, 3).contiguous()
