"""Predictions of a model on one batch, from the state in which the batch starts; and the deployed model's loss."""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.losses import objective
from hbll_seq.models.base import Model


def predict_on(model: Model, batch: Batch, **options: Any) -> tuple[Tensor, list[Tensor] | None]:
    """Return the predictions `(B, V)` or `(B, T, V)`, and the state of every layer after the batch.

    Args:
        model: keeps its mode, training or evaluation.
        batch: a batch on the model's device. If it has a start state, the state after it is returned, detached;
            otherwise None.
        options: further arguments of the model's `forward`.
    """
    if batch.state is None:
        return model(batch.x, batch.lengths, **options), None
    lengths = None if int(batch.lengths.min()) == batch.x.shape[1] else batch.lengths
    out, ends = model(batch.x, lengths, state=batch.state, return_state=True, **options)
    return out, [one.detach().clone() for one in ends]  # not views that keep all outputs


def score(model: Model, batch: Batch) -> tuple[float, Tensor]:
    """Predict a batch with the deployed model and compute the loss. Arguments and results as for `score_on`."""
    return score_on(model, batch)[:2]


@torch.no_grad()
def score_on(model: Model, batch: Batch) -> tuple[float, Tensor, list[Tensor] | None]:
    """Predict a batch with the deployed model, compute the loss, and carry the state on.

    Args:
        model: keeps its mode, training or evaluation.
        batch: a batch on the model's device.

    Returns:
        The mean loss over the targets that count, the predictions, `(B, V)` or `(B, T, V)`, and the state after the
        batch (see `predict_on`).
    """
    out, state = predict_on(model, batch)
    return float(objective(model.objective, out, batch)[0]), out, state
