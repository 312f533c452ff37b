"""Vector-Jacobian products for tensors of which some may be frozen."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients_of(
    heads: Sequence[Tensor], wanted: Sequence[Tensor], grads: Sequence[Tensor], *, retain_graph: bool = False
) -> list[Tensor | None]:
    """Pull the gradients on `heads` back to `wanted`; None for a tensor that requires none or is not reached."""
    through = [(head, grad) for head, grad in zip(heads, grads, strict=True) if head.requires_grad]
    free = [one for one in wanted if one.requires_grad]
    if not through or not free:
        return [None] * len(wanted)
    outs, given = zip(*through, strict=True)
    found = iter(torch.autograd.grad(outs, free, given, retain_graph=retain_graph, allow_unused=True))
    return [next(found) if one.requires_grad else None for one in wanted]
