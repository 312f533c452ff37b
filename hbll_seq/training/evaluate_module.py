"""Evaluation and prediction for modules of the user's: their loss and metrics over all data."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.read_pairs import read_inputs
from hbll_seq.data.sources import Source
from hbll_seq.data.streams import Streams
from hbll_seq.errors import InputError
from hbll_seq.models.any_module import AnyModule, device_of, dtype_of
from hbll_seq.models.given_loss import Scored
from hbll_seq.models.given_metrics import Tally
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.scoring import predict_on
from hbll_seq.models.symbol_text import SymbolText
from hbll_seq.text import Tokenizer
from hbll_seq.training.carried import zero_state


def evaluate_module(model: AnyModule, source: Source, batch_size: int) -> dict[str, float]:
    """Return the loss, for labels the accuracy, and the metrics.

    The loss is the mean over all targets that count; of a callable, the mean over batches, weighted by their
    sequences. The caller sets modes and gradient.

    Raises:
        InputError: data in which no target counts.
    """
    total, weights, size = 0.0, 0.0, 0
    right = answers = 0
    tally, own = Tally(model.metrics), model.own
    for batch, scored, out, lengths in _scored(model, source, batch_size):
        weight = float(scored.weight) if model.loss.known else float(len(batch.x))
        if not weight:
            continue
        total += float(scored.loss) * (1.0 if model.losses_add else weight)
        weights += weight
        if model.loss.kind == "labels" and scored.out is not None and scored.y is not None:
            if not scored.y.is_floating_point():
                counted = torch.ne(scored.y, -100 if model.loss.ignored is None else model.loss.ignored)
                right += int((scored.out.argmax(-1) == scored.y)[counted].sum())
                answers += int(counted.sum())
        if isinstance(own, SymbolText) and own.tokenizer is not None:
            size += bytes_of(own.tokenizer, batch)
        tally.add(scored, out, lengths, batch, model.loss)
    if not weights:
        raise InputError("y", "no target that counts", "at least one that is not ignored, masked or padding")
    found = {"loss": total if model.losses_add else total / weights}
    if answers:
        found["accuracy"] = right / answers
    if own is not None and own.task == "next" and model.loss.named() == "cross_entropy":
        found["bits"] = found["loss"] / math.log(2)
    if isinstance(own, SymbolText) and model.own_objective:
        found |= text_figures(found["loss"], total, size)
    return found | tally.result()


def _scored(
    model: AnyModule, source: Source, batch_size: int
) -> Iterator[tuple[Batch, Scored, Tensor, Tensor | None]]:  # fmt: skip
    """Iterate over the batches that have targets, with their scores, outputs and lengths; the state is carried along
    streams.
    """
    where = device_of(model.inner)
    if not isinstance(source, Streams):
        for batch in source.in_order(batch_size):
            if batch.targeted():
                batch = batch.to(where)
                yield batch, *model.scored(batch)
        return
    assert isinstance(model.inner, SequenceModel)
    state: list[Tensor] | None = None
    for begins, batch in source.whole(batch_size):
        state = zero_state(model.inner, len(batch.x)) if begins else state
        batch = batch._replace(state=state).to(where)
        out, state = predict_on(model.inner, batch)
        if batch.targeted():
            yield batch, model.loss(out, batch.lengths, batch), out, batch.lengths


def text_figures(loss: float, total: float, size: int) -> dict[str, float]:
    """Return the figures of a language model beside its loss.

    Args:
        loss: nats per target.
        total: nats of all targets.
        size: bytes of their text; 0 if unknown.
    """
    found = {"perplexity": math.exp(min(loss, 700.0))}  # the largest of a float is near exp(709)
    return found | ({"bits_per_byte": total / math.log(2) / size} if size else {})


def bytes_of(tokenizer: Tokenizer, batch: Batch) -> int:
    """Return the bytes of the text of all targets that count."""
    rows = batch.y if batch.mask is None else [y[mask] for y, mask in zip(batch.y, batch.mask, strict=True)]
    return sum(tokenizer.bytes_of(row) for row in rows)


@torch.no_grad()
def predict_module(module: nn.Module, x: Any, batch_size: int) -> Tensor | list[Tensor]:
    """Return the outputs of a module on the CPU; a list without padding where their lengths differ.

    Raises:
        InputError: see `hbll_seq.training.evaluation.predict`.
    """
    model = AnyModule(module, loss=_no_loss)
    values, lengths = read_inputs(x, dtype_of(module))
    steps = torch.full((len(values),), values.shape[1] if values.ndim > 1 else 1) if lengths is None else lengths
    where, outs = device_of(module), list[Tensor]()
    for part, n in zip(values.split(batch_size), steps.split(batch_size), strict=True):
        part = part if lengths is None else part[:, : int(n.max())]
        out, told = model.called(Batch(part.to(where), n, part, None))
        out = out.cpu()
        outs += list(out) if told is None else [one[:k] for one, k in zip(out, told.tolist(), strict=True)]
    if len({one.shape for one in outs}) > 1:
        return outs
    return torch.stack(outs)


def _no_loss(out: Tensor, y: Tensor) -> Tensor:
    raise InputError("loss", "None", "a loss, for anything but predictions")
