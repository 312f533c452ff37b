"""Figures and predictions of the deployed chain: sequential, in evaluation mode, without gradient."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.inputs import Loader, LongText, Padded, as_source
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.objective import correct, objective


def evaluate(
    model: SequenceModel, x: Any, y: Any = None, *, batch_size: int = 64, window: int = 256, mask: Any = None,
    ignore_index: int = -100,
) -> dict[str, float]:  # fmt: skip
    """Loss and accuracy on data in any form `fit` takes.

    Returns:
        `loss` (nats a target, or squared units); for classification also `accuracy` in 0..1; for next-step
        models of symbols also `bits` a symbol.
    """
    return evaluate_source(
        model, as_source(x, y, model, mask=mask, window=window, ignore_index=ignore_index), batch_size
    )


def evaluate_source(model: SequenceModel, source: Padded | LongText | Loader, batch_size: int) -> dict[str, float]:
    """`evaluate` on data already normalised."""
    total = 0.0
    targets = right = answers = 0
    with _deployed(model):
        for batch in source.in_order(batch_size):
            batch = batch.to(_device(model))
            out = model(batch.x, batch.lengths)
            count = len(batch.x) if batch.mask is None else int(batch.mask.sum())
            total += float(objective(model.objective, out, batch)[0]) * count
            targets += count
            if model.objective == "cross_entropy":
                one, all_ = correct(out, batch)
                right, answers = right + one, answers + all_
    result = {"loss": total / max(targets, 1)}
    if answers:
        result["accuracy"] = right / answers
    if model.task == "next" and model.objective == "cross_entropy":
        result["bits"] = result["loss"] / math.log(2)
    return result


def predict(
    model: SequenceModel, x: Any, *, batch_size: int = 64, probabilities: bool = False
) -> Tensor | list[Tensor]:
    """Predictions of the deployed chain.

    Args:
        model: any recurrent model.
        x: a tensor, array, list of unequal lengths, `(x, lengths)` or `PackedSequence`.
        batch_size: sequences at a time.
        probabilities: softmax of the scores (classification only).

    Returns:
        Task "sequence": `(N, V)`. Otherwise `(N, T, V)`, or a list of `(T_i, V)` where lengths differ.
    """
    if probabilities and model.objective != "cross_entropy":
        raise InputError("probabilities", "True for a regression", "False")
    source = as_source(x, *_placeholder(model, x))
    if not isinstance(source, Padded):
        raise InputError("x", type(x).__name__, "sequences in memory")
    outs: list[Tensor] = []
    lengths: list[int] = []
    with _deployed(model):
        for batch in source.in_order(batch_size):
            out = model(batch.x.to(_device(model)), batch.lengths)
            out = torch.softmax(out, -1) if probabilities else out
            outs += list(out.cpu())
            lengths += batch.lengths.tolist()
    if model.task == "sequence":
        return torch.stack(outs)
    parts = [o[:n] for o, n in zip(outs, lengths, strict=True)]
    return torch.stack(parts) if len(set(lengths)) == 1 else parts


class _Inputs(SequenceModel):
    """Stand-in with a model's input facts and a task that needs no targets to check."""

    def __init__(self, like: SequenceModel) -> None:
        nn.Module.__init__(self)
        self.input_kind, self.input_size, self.output_size = like.input_kind, like.input_size, 1
        self.task, self.objective = "sequence", "mse"
        self.dtype_of = nn.Parameter(next(like.parameters()).detach().new_zeros(1))


def _placeholder(model: SequenceModel, x: Any) -> tuple[Tensor, SequenceModel]:
    facts = _Inputs(model)
    count = len(x[0]) if isinstance(x, tuple) and not hasattr(x, "batch_sizes") else None
    if hasattr(x, "batch_sizes"):
        count = int(x.batch_sizes[0])
    if count is None:
        single = 1 if model.input_kind == "symbols" else 2
        count = len(x) if isinstance(x, list) or getattr(x, "ndim", 9) != single else 1
    return torch.zeros(count, 1), facts


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _deployed(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def bptt_gradient(model: SequenceModel, batch: Batch, step: Any) -> list[Tensor]:
    """Gradients a rule's `step` leaves on `batch`, as a list, with `.grad` as it was before."""
    saved = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    try:
        step(model, batch)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    finally:
        for p, g in zip(model.parameters(), saved, strict=True):
            p.grad = g
