"""Predictions and loss of the deployed model on one batch, without gradient."""

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.losses import objective
from hbll_seq.models.base import Model


@torch.no_grad()
def score(model: Model, batch: Batch) -> tuple[float, Tensor]:
    """Predict a batch with the deployed model and compute the loss.

    Args:
        model: keeps its mode, training or evaluation.
        batch: a batch on the model's device.

    Returns:
        The mean loss over the targets that count, and the predictions, `(B, V)` or `(B, T, V)`.
    """
    out = model(batch.x, batch.lengths)
    return float(objective(model.objective, out, batch)[0]), out
