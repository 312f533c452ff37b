"""Vector-Jacobian products for tensors of which some may be frozen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def gradients_of(
    heads: Sequence[Tensor], wanted: Sequence[Tensor], grads: Sequence[Tensor], *, retain_graph: bool = False
) -> list[Tensor | None]:
    """Pull the gradients on `heads` back to `wanted`; None for a tensor that requires none or is not reached.

    A tensor that is wanted twice (tied weights) gets its whole gradient once, in its first place.
    """
    through = [(head, grad) for head, grad in zip(heads, grads, strict=True) if head.requires_grad]
    free = list({id(one): one for one in wanted if one.requires_grad}.values())
    if not through or not free:
        return [None] * len(wanted)
    outs, given = zip(*through, strict=True)
    with _hooks_off(free):
        pulled = torch.autograd.grad(outs, free, given, retain_graph=retain_graph, allow_unused=True)
    found = {id(one): grad for one, grad in zip(free, pulled, strict=True)}
    return [found.pop(id(one), None) for one in wanted]


@contextmanager
def _hooks_off(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Keep a user's hooks on weights silent: they are called once, where the whole gradient arrives.

    The dictionary of hooks is emptied, since autograd reads that of a computed weight where it has always been. A
    computed weight that retains its gradient would add parts of it.
    """
    retained = [(one, one.grad) for one in tensors if not one.is_leaf and one.retains_grad]
    hooked = [(one._backward_hooks, dict(one._backward_hooks)) for one in tensors if one._backward_hooks]
    for hooks, _ in hooked:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in hooked:
            hooks.update(kept)
        for one, grad in retained:
            one.grad = grad
