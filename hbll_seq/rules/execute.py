"""The part every rule shares: predict with the rule's way of running layers, score, differentiate."""

import math

import torch
from torch import Tensor

from hbll_seq.batch import Batch
from hbll_seq.models.recurrent import Execute, SequenceModel
from hbll_seq.objective import objective


def forward_backward(
    model: SequenceModel, batch: Batch, execute: Execute, *, lookup: bool = False
) -> tuple[float, Tensor | None]:
    """Add the batch's gradients to `.grad`; return the mean loss and the loss per step `(B, T)` (or None).

    With `lookup` the first cell may get symbols in place of their embeddings (`cells.symbols`).
    """
    out = model(batch.x, batch.lengths, execute=execute, lookup=lookup)
    loss, per_step = objective(model.objective, out, batch)
    loss.backward()
    return float(loss.detach()), per_step


def per_block(per_step: Tensor | None, mask: Tensor | None, block: int) -> Tensor | None:
    """Mean loss of each block, `(n,)`, from the loss per step `(B, T)`; NaN where a block has no target.

    Where the loss itself is not finite such a block gives 0: what is not finite then is where it broke.
    """
    if per_step is None:
        return None
    counted = per_step.new_ones(per_step.shape) if mask is None else mask.to(per_step)
    empty = math.nan if torch.isfinite(per_step).all() else 0.0
    means = []
    for p, m in zip(per_step.split(block, 1), counted.split(block, 1), strict=True):
        means.append(float((p * m).sum() / m.sum()) if m.any() else empty)
    return per_step.new_tensor(means)
