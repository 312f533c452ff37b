"""Sums of gradients of a layer's parts, and their addition to `.grad`. None stands for no gradient."""

from collections.abc import Sequence

from torch import Tensor


def added(total: list[Tensor | None], more: list[Tensor | None]) -> list[Tensor | None]:
    """Sum two lists of gradients, pair by pair; an empty total is zero. No tensor is written to."""
    if not total:
        return more
    return [q if p is None else p if q is None else p + q for p, q in zip(total, more, strict=True)]


def add_to_parameters(parameters: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Add one gradient per parameter to `.grad`, without keeping the given tensors."""
    for p, g in zip(parameters, grads, strict=True):
        if g is not None:
            p.grad = g.clone() if p.grad is None else p.grad + g
