"""Scoring a model as it is deployed: its predictions on one batch, without gradient, and their loss."""

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.losses import objective
from hbll_seq.models.base import Model


@torch.no_grad()
def score(model: Model, batch: Batch) -> tuple[float, Tensor]:
    """Predict a batch as the deployed model does, and take the loss.

    Args:
        model: stays in the mode it is in, training or evaluation.
        batch: on the model's device.

    Returns:
        The mean loss over the targets that count, and the predictions, `(B, V)` or `(B, T, V)`.
    """
    out = model(batch.x, batch.lengths)
    return float(objective(model.objective, out, batch)[0]), out
