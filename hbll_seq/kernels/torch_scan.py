"""The reference affine scan, in plain torch on any device: ceil(log2 n) levels of elementwise work.

`numba_scan.py` and `triton_scan.py` are tested against it, and it against a loop.

Maps m -> a m + b compose associatively: (a2, b2) after (a1, b1) is (a1 a2, a2 b1 + b2). Hillis and
Steele's scan composes each map with the one 2^k before it, level k = 0, 1, ...; after
ceil(log2 n) levels every map holds the composition of all up to itself. The reverse scan is the
same with "before" read as "after".
"""

import torch
from torch import Tensor


def compose(a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the affine map (a2, b2) after (a1, b1), elementwise: `(...)` each -> a, b `(...)`."""
    return a1 * a2, a2 * b1 + b2


def levels(n: int) -> int:
    """Return the levels of a scan over n maps, ceil(log2 n)."""
    return (n - 1).bit_length()


def affine_scan(a: Tensor, b: Tensor, start: Tensor, *, reverse: bool = False) -> Tensor:
    """Scan by `scan.prefix_scan` or `scan.reverse_scan`: a, b `(n, ...)`, start `(...)` -> `(n+1, ...)`."""
    for k in range(levels(a.shape[0])):
        shift = 1 << k
        if reverse:
            new_a, new_b = compose(a[shift:], b[shift:], a[:-shift], b[:-shift])
            a, b = torch.cat([new_a, a[-shift:]]), torch.cat([new_b, b[-shift:]])
        else:
            new_a, new_b = compose(a[:-shift], b[:-shift], a[shift:], b[shift:])
            a, b = torch.cat([a[:shift], new_a]), torch.cat([b[:shift], new_b])
    h, end = a * start + b, start.unsqueeze(0)
    return torch.cat([h, end]) if reverse else torch.cat([end, h])
