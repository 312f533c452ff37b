"""What is minimised: cross-entropy in nats, or mean squared error, over the steps that count."""

import torch
from torch import Tensor
from torch.nn import functional

from hbll_seq.data.batch import Batch


def objective(kind: str, out: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Mean loss of a batch.

    Args:
        kind: "cross_entropy" or "mse".
        out: predictions: `(B, V)` or `(B, T, V)`.
        batch: targets and mask.

    Returns:
        The mean over sequences, or over all counted steps of all sequences, with gradient; and for targets per
        step the loss of each step `(B, T)` without gradient, zero where not counted (None otherwise).
    """
    if out.ndim == 2:
        if kind == "mse":
            return functional.mse_loss(out, batch.y), None
        return functional.cross_entropy(out, batch.y), None
    if kind == "mse":
        per_step = (out - batch.y).square().mean(-1)
    else:
        y = batch.y if batch.mask is None else batch.y.masked_fill(~batch.mask, 0)
        per_step = functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    if batch.mask is None:
        return per_step.mean(), per_step.detach()
    # where, not a product: a masked step may hold anything, and 0 * inf is not 0
    per_step = torch.where(batch.mask, per_step, per_step.new_zeros(()))
    return per_step.sum() / batch.mask.sum().clamp(min=1), per_step.detach()


def correct(out: Tensor, batch: Batch) -> tuple[int, int]:
    """Right answers and answers, for classification."""
    right = out.argmax(-1) == batch.y
    if batch.mask is not None:
        right = right[batch.mask]
    return int(right.sum()), right.numel()


def per_sequence(kind: str, out: Tensor, batch: Batch) -> Tensor:
    """Loss of each sequence, summed over its counted steps, `(B,)`, with gradient. Arguments as for `objective`."""
    if out.ndim == 2:
        if kind == "mse":
            return (out - batch.y).square().mean(-1)
        return functional.cross_entropy(out, batch.y, reduction="none")
    if kind == "mse":
        each = (out - batch.y).square().mean(-1)
    else:
        y = batch.y if batch.mask is None else batch.y.masked_fill(~batch.mask, 0)
        each = functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    if batch.mask is not None:
        each = torch.where(batch.mask, each, each.new_zeros(()))
    return each.sum(1)
