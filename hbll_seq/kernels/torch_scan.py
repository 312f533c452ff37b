"""Affine scan in plain torch, ceil(log2 n) levels of elementwise work: the reference, on any device.

Maps m -> a m + b compose associatively: (a2, b2) after (a1, b1) is (a1 a2, a2 b1 + b2). Hillis and
Steele's scan composes each map with the one 2^k before it, level k = 0, 1, ...; after
ceil(log2 n) levels every map holds the composition of all up to itself.
"""

import torch
from torch import Tensor


def compose(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map (a2, b2) after (a1, b1), elementwise."""
    return a1 * a2, a2 * b1 + b2


def levels(n: int) -> int:
    """Levels of a scan over n maps, ceil(log2 n)."""
    return (n - 1).bit_length()


def affine_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """h[0] = h0, h[i+1] = a[i] h[i] + b[i]: a, b `(n, ...)`, h0 `(...)` -> `(n+1, ...)`."""
    n = a.shape[0]
    for k in range(levels(n)):
        shift = 1 << k
        later_a, later_b = compose(a[:-shift], b[:-shift], a[shift:], b[shift:])
        a, b = torch.cat([a[:shift], later_a]), torch.cat([b[:shift], later_b])
    return torch.cat([h0.unsqueeze(0), a * h0 + b])
