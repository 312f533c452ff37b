"""Evaluation and prediction by the deployed chain: sequential, in evaluation mode, without gradient."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.inputs import as_sequences
from hbll_seq.data.scalars import flag, integer
from hbll_seq.data.sources import Source
from hbll_seq.errors import InputError
from hbll_seq.losses import correct
from hbll_seq.models.any_module import AnyModule, as_evaluated
from hbll_seq.models.base import Model
from hbll_seq.models.scoring import score
from hbll_seq.training.evaluate_module import evaluate_module, predict_module
from hbll_seq.training.modes import evaluation_mode


def evaluate(
    model: nn.Module, x: Any, y: Any = None, *, batch_size: int = 64, window: int | None = None, mask: Any = None,
    ignore_index: int = -100, loss: Any = None, metrics: Any = None,
) -> dict[str, float]:  # fmt: skip
    """Return loss and accuracy of the deployed chain on data in any form of `fit`.

    Args:
        model: as for `fit`.
        x: as for `fit`.
        y: as for `fit`.
        mask: as for `fit`.
        ignore_index: as for `fit`.
        batch_size: sequences at a time.
        window: time steps of the windows cut from one long text; None for 256, or the model's context if less.
        loss: as for `fit`.
        metrics: as for `fit`; an object with `update` sees all data before it computes.

    Returns:
        `loss` (nats per target, squared units, or those of the loss given), and the metrics; for classification also
        `accuracy` in 0..1; for next-step models of symbols also `bits` per symbol.

    Raises:
        InputError: as `fit`, before anything is computed; data in which no target counts.
    """
    batch_size, judged = integer("batch_size", batch_size), as_evaluated(model, loss, metrics, ignore_index)
    return evaluate_source(
        judged, judged.make_source(x, y, mask=mask, window=window, ignore_index=ignore_index), batch_size
    )


def evaluate_source(model: Model, source: Source, batch_size: int) -> dict[str, float]:
    """Evaluate on normalised data."""
    if isinstance(model, AnyModule):
        with _deployed(model):
            return evaluate_module(model, source, batch_size)
    total = 0.0
    targets = right = answers = 0
    with _deployed(model):
        for batch in source.in_order(batch_size):
            batch = batch.to(_device(model))
            loss, out = score(model, batch)
            count = len(batch.x) if batch.mask is None else int(batch.mask.sum())
            total += loss * count
            targets += count
            if model.objective == "cross_entropy":
                one, all_ = correct(out, batch)
                right, answers = right + one, answers + all_
    if not targets:
        raise InputError("y", "no step that counts", "at least one target that is not ignored, masked or padding")
    result = {"loss": total / targets}
    if answers:
        result["accuracy"] = right / answers
    if model.task == "next" and model.objective == "cross_entropy":
        result["bits"] = result["loss"] / math.log(2)
    return result


def predict(model: nn.Module, x: Any, *, batch_size: int = 64, probabilities: bool = False) -> Tensor | list[Tensor]:
    """Return the predictions of the deployed chain.

    Args:
        model: as for `fit`.
        x: a tensor, array, list of unequal lengths, `(x, lengths)`, `PackedSequence` or `Dataset` (its targets
            are ignored).
        batch_size: sequences at a time.
        probabilities: return the softmax of the scores (classification only).

    Returns:
        On the CPU. Task "sequence": `(N, V)`. Otherwise `(N, T, V)`, or a list of `(T_i, V)` if lengths differ. Of a
        module of another kind, its outputs likewise, cut to the lengths it returns, or to those of x.

    Raises:
        InputError: as `fit`, before anything is computed.
    """
    batch_size = integer("batch_size", batch_size)
    model = model.inner if isinstance(model, AnyModule) else model
    if not isinstance(model, Model):
        if flag("probabilities", probabilities):
            raise InputError("probabilities", "True for a module whose outputs may be anything", "False")
        with _deployed(model):
            return predict_module(model, x, batch_size)
    if flag("probabilities", probabilities) and model.objective != "cross_entropy":
        raise InputError("probabilities", "True for a regression", "False")
    padded, lengths, _ = as_sequences(x, model)
    outs: list[Tensor] = []
    with _deployed(model):
        for part, steps in zip(padded.split(batch_size), lengths.split(batch_size), strict=True):
            t = int(steps.max())
            out = model(part[:, :t].to(_device(model)), steps).cpu()
            outs += list(torch.softmax(out, -1) if probabilities else out)
    if model.task == "sequence":
        return torch.stack(outs)
    parts = [o[:n] for o, n in zip(outs, lengths.tolist(), strict=True)]
    return torch.stack(parts) if len(lengths.unique()) == 1 else parts


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _deployed(model: nn.Module) -> Iterator[None]:
    with evaluation_mode(model), torch.no_grad():
        yield
