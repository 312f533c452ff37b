"""Blocks of time: their layout, the boundaries that count, the places of discounts, and the sequential depth."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Depth:
    """Sequential depth, counted while it happens: time steps of a roll, and levels of a scan."""

    steps: int = 0
    levels: int = 0

    @property
    def total(self) -> int:
        """Steps and levels together."""
        return self.steps + self.levels


def to_blocks(x: Tensor, block: int, *, copy: bool = True) -> Tensor:
    """Cut `(B, T, D)` into `(K, n, B, D)`, the last block padded with zeros; without `copy` a view where possible."""
    b, t, d = x.shape
    n = math.ceil(t / block)
    if n * block != t:
        x = torch.nn.functional.pad(x, (0, 0, 0, n * block - t))
    blocks = x.reshape(b, n, block, d).permute(2, 1, 0, 3)
    return blocks.contiguous() if copy else blocks


def from_blocks(x: Tensor, steps: int) -> Tensor:
    """Put `(K, n, B, D)` together to `(B, T, D)`, the padding cut off."""
    k, n, b, d = x.shape
    out = torch.empty(b, n, k, d, dtype=x.dtype, device=x.device)
    out.copy_(x.permute(2, 1, 0, 3))  # always a copy: x may be a roll's work buffer
    return out.view(b, n * k, d)[:, :steps]


def valid_boundaries(steps: int, block: int, lengths: Tensor | None, like: Tensor) -> Tensor | None:
    """Mark the boundaries `(n-1, B, 1)` that lie inside their sequence with 1; None if all do."""
    last = (steps - 1) // block * block
    if lengths is None or int(lengths.min()) > last:
        return None
    starts = torch.arange(block, max(steps, block), block)  # (n-1,)
    return (starts[:, None] < lengths.cpu()[None]).to(like).unsqueeze(-1)


def discounts(discount: float | Tensor, credit: int, block: int, steps: int, batch: int) -> float | Tensor:
    """Spread the discounts of credit blocks over execution blocks.

    Args:
        discount: gamma, a number, or `(m, B, 1)` for every credit block.
        credit: steps of a credit block.
        block: steps of an execution block; it divides `credit`, or every gamma is 1.
        steps, batch: T and B.

    Returns:
        A number if it is the same at all ends, or `(n, B, 1)`: gamma where a credit block ends too, 1 elsewhere.
    """
    if block == credit or (isinstance(discount, float) and discount == 1.0):
        return discount
    assert credit >= steps or credit % block == 0, "messages are discounted at the ends of credit blocks"
    n = math.ceil(steps / block)
    each = torch.as_tensor(discount).expand(math.ceil(steps / credit), batch, 1)
    out = torch.ones(n, batch, 1, dtype=each.dtype, device=each.device)
    ends = torch.arange(1, n + 1) * block
    at = torch.nonzero(ends % credit == 0).flatten()
    out[at] = each[torch.div(ends[at], credit, rounding_mode="floor") - 1]
    return out
