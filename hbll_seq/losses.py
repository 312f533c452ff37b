"""Losses to minimise: cross-entropy in nats, or mean squared error, over the targets that count.

Only `_loss` distinguishes the kinds; the other functions choose the targets. A target counts where a batch's mask is
True, or everywhere without a mask.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from hbll_seq.data.batch import Batch


def _loss(kind: str, out: Tensor, y: Tensor, reduction: Literal["none", "mean", "sum"]) -> Tensor:
    """Return the loss of predictions `(..., V)` for classes `(...)`, or of values `(..., C)` for values `(..., C)`.

    The reduction is in the same call: a mean taken afterwards has the same gradient and differs in the last bit.
    """
    if kind == "mse":
        if reduction == "mean":
            return functional.mse_loss(out, y)
        values = (out - y).square().mean(-1)
        return values if reduction == "none" else values.sum()
    found = functional.cross_entropy(out.flatten(0, -2), y.flatten(), reduction=reduction)
    return found.view(out.shape[:-1]) if reduction == "none" else found


def each(kind: str, out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of every prediction, with gradient.

    Args:
        kind: "cross_entropy" or "mse".
        out: predictions, `(..., V)` scores of classes or `(..., C)` values.
        y: targets, `(...)` int64 classes or `(..., C)` values.

    Returns:
        `(...)`.
    """
    return _loss(kind, out, y, "none")


def mean(kind: str, out: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss of all predictions, with gradient. Arguments as for `each`."""
    return _loss(kind, out, y, "mean")


def total(kind: str, out: Tensor, y: Tensor) -> Tensor:
    """Return the summed loss of all predictions, with gradient. Arguments as for `each`."""
    return _loss(kind, out, y, "sum")


def only_counted(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values` where the mask of the same shape is True, 0 elsewhere.

    A selection, not a product: values that do not count may be anything, and 0 * inf is not 0.
    """
    return torch.where(mask, values, values.new_zeros(()))


def counted(kind: str, out: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Return the loss of every prediction, with gradient, 0 where the target does not count.

    Args:
        kind, out, y: as for `each`; a class that does not count may be any number.
        mask: `(...)` bool, True where a target counts; None if all do.
    """
    if mask is None:
        return each(kind, out, y)
    if not y.is_floating_point():
        y = y.masked_fill(~mask, 0)
    return only_counted(each(kind, out, y), mask)


def objective(kind: str, out: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the mean loss of a batch, and the loss per time step.

    Args:
        kind: "cross_entropy" or "mse".
        out: predictions: `(B, V)` or `(B, T, V)`.
        batch: targets and mask.

    Returns:
        The mean over sequences, or over all counted time steps of all sequences, with gradient. For targets per time
        step also the loss of each step `(B, T)` without gradient, zero where not counted (None otherwise).
    """
    if out.ndim == 2:
        return mean(kind, out, batch.y), None
    per_step = counted(kind, out, batch.y, batch.mask)
    if batch.mask is None:
        return per_step.mean(), per_step.detach()
    return per_step.sum() / batch.mask.sum().clamp(min=1), per_step.detach()


def per_sequence(kind: str, out: Tensor, batch: Batch) -> Tensor:
    """Return the loss of each sequence, summed over its counted time steps, `(B,)`, with gradient. Arguments as for
    `objective`.
    """
    if out.ndim == 2:
        return each(kind, out, batch.y)
    return counted(kind, out, batch.y, batch.mask).sum(1)


def correct(out: Tensor, batch: Batch) -> tuple[int, int]:
    """Count right answers and answers, for classification."""
    right = out.argmax(-1) == batch.y
    if batch.mask is not None:
        right = right[batch.mask]
    return int(right.sum()), right.numel()
