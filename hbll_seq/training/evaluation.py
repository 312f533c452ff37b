"""Evaluation and prediction by the deployed chain: sequential, in evaluation mode, without gradient."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.inputs import is_text
from hbll_seq.data.scalars import flag, integer, shown
from hbll_seq.data.series import Series, as_series
from hbll_seq.data.sources import LongText, Source
from hbll_seq.data.streams import Streams, as_streams
from hbll_seq.distributed.ranks import Ranks
from hbll_seq.errors import InputError
from hbll_seq.losses import correct
from hbll_seq.models.any_module import AnyModule, as_evaluated
from hbll_seq.models.base import Model
from hbll_seq.models.label_names import as_names, names_of, unpacked
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.scoring import score, score_on
from hbll_seq.models.symbol_text import SymbolText
from hbll_seq.training.carried import carries, check_stateful, zero_state
from hbll_seq.training.evaluate_module import bytes_of, evaluate_module, own_batches, predict_module, text_figures
from hbll_seq.training.modes import evaluation_mode
from hbll_seq.training.shared import opened


class Evaluation(dict[str, float]):
    """The figures of `evaluate`, by name.

    Attributes:
        cut: how the data were read, in words.
    """

    def __init__(self, figures: dict[str, float], cut: str) -> None:
        super().__init__(figures)
        self.cut = cut


def evaluate(
    model: nn.Module, x: Any, y: Any = None, *, batch_size: int = 64, window: int | None = None, mask: Any = None,
    ignore_index: int = -100, stateful: bool | None = None, loss: Any = None, metrics: Any = None,
) -> Evaluation:  # fmt: skip
    """Return loss and accuracy of the deployed chain on data in any form of `fit`.

    A recurrent model reads one long text from its start to its end with one state, in constant memory. Where `window`
    is given the text is cut into windows of so many time steps, and every window starts from a zero state; so does
    `fit` with its `validation`. Figures that are no means over targets (a callable `loss`, a metric that takes lengths)
    need windows, too. `Evaluation.cut` says which it was.

    Args:
        model: as for `fit`.
        x: as for `fit`; of an `OpenSpan` the whole sequence.
        y: as for `fit`.
        mask: as for `fit`.
        ignore_index: as for `fit`.
        batch_size: sequences at a time.
        window: time steps of the windows cut from one long text, each from a zero state; None: the whole text with
            one state, or for other models windows of 256, or of the model's context if less. With `stateful=True`,
            the time steps read at a time; None for about 4,000.
        stateful: carry the state of a recurrent model on from window to window. x is one long text or series, or a
            batch of equal lengths, each read from its start; the windows then decide nothing but speed and memory.
            False: windows from zero. None: True for one long text without `window`, else False.
        loss: as for `fit`.
        metrics: as for `fit`; an object with `update` sees all data before it computes.

    Returns:
        `loss` (nats per target, squared units, or those of the loss given), and the metrics; for classification also
        `accuracy` in 0..1; for next-step models of symbols also `bits` per symbol. Of a language model without `loss`
        also `perplexity`, a symbol, and, where it has a tokenizer, `bits_per_byte` of the text in UTF-8, which can be
        compared over tokenizers.

    Raises:
        InputError: as `fit`, before anything is computed; data in which no target counts.
    """
    x, y = unpacked(opened(x), opened(y))
    batch_size, judged = integer("batch_size", batch_size), as_evaluated(model, loss, metrics, ignore_index)
    any_cut = not isinstance(judged, AnyModule) or (judged.loss.known and judged.metrics.by_target)
    reader = judged.own if isinstance(judged, AnyModule) and judged.own is not None else judged
    long = window is None and y is None and mask is None and carries(reader) and is_text(x, reader)
    if any_cut and (long if stateful is None else flag("stateful", stateful)):
        check_stateful(reader)
        source: Source = as_streams(x, judged.targets(y), reader, mask=mask, window=window, ignore_index=ignore_index)
    else:
        if stateful is not None and flag("stateful", stateful):
            check_stateful(judged)
        source = judged.make_source(x, y, mask=mask, window=window, ignore_index=ignore_index)
    cut = _cut(source)
    if long and stateful is None and not any_cut:
        cut += ", because a callable loss or a metric with lengths is a mean over sequences"
    return Evaluation(evaluate_source(judged, source, batch_size), cut)


def _cut(source: Source) -> str:
    if isinstance(source, Streams):
        many = "one sequence" if source.series.single else f"{len(source.series.x):,} sequences"
        return f"{many} of {source.series.x.shape[1]:,} time steps, read with one state"
    if isinstance(source, LongText):
        return f"one text of {len(source.symbols):,} symbols, in windows of {source.window:,} from a zero state"
    return "sequences as they came, each from a zero state"


def evaluate_spread(model: Model, source: Source, batch_size: int, ranks: Ranks | None) -> dict[str, float]:
    """Evaluate on the processes of a run, each on its share of the batches; all get the same figures.

    Figures that do not add up over batches (a state carried along streams, metrics, error rates) are computed by every
    rank from all data; those of the first count.
    """
    if ranks is None:
        return evaluate_source(model, source, batch_size)
    whole = isinstance(source, Streams) or model.own_loss is not None
    if whole or (isinstance(model, AnyModule) and model.metrics):
        return ranks.of_the_first(evaluate_source(model, source, batch_size))
    return ranks.of_the_first(evaluate_source(model, source, batch_size, ranks))


def evaluate_source(model: Model, source: Source, batch_size: int, ranks: Ranks | None = None) -> dict[str, float]:
    """Evaluate on normalised data; with `ranks` on this one's share, and sum over all."""
    if isinstance(model, AnyModule):
        with _deployed(model):
            return evaluate_module(model, source, batch_size, ranks)
    if model.own_loss is not None:
        with _deployed(model):
            return model.figures(source, batch_size)
    total = 0.0
    targets: float = 0
    right: float = 0
    answers: float = 0
    tokenizer = model.tokenizer if isinstance(model, SymbolText) else None
    size: float = 0  # bytes of all targets
    with _deployed(model):
        for batch, loss, out in _scored(model, source, batch_size, ranks):
            count = len(batch.x) if batch.mask is None else int(batch.mask.sum())
            total += loss * count
            targets += count
            if model.objective == "cross_entropy":
                one, all_ = correct(out, batch)
                right, answers = right + one, answers + all_
            if tokenizer is not None:
                size += bytes_of(tokenizer, batch)
    if ranks is not None:
        total, targets, right, answers, size = ranks.added([total, targets, right, answers, size])
    if not targets:
        raise InputError("y", "no step that counts", "at least one target that is not ignored, masked or padding")
    result = {"loss": total / targets}
    if answers:
        result["accuracy"] = right / answers
    if model.task == "next" and model.objective == "cross_entropy":
        result["bits"] = result["loss"] / math.log(2)
    if isinstance(model, SymbolText):
        result |= text_figures(result["loss"], total, size)
    return result


def _scored(
    model: Model, source: Source, batch_size: int, ranks: Ranks | None
) -> Iterator[tuple[Batch, float, Tensor]]:
    """Iterate over the batches of all data, on the model's device, with their loss and predictions; the state is
    carried along streams.
    """
    if not isinstance(source, Streams):
        for batch in own_batches(source, batch_size, ranks):
            batch = batch.to(_device(model))
            yield batch, *score(model, batch)
        return
    assert isinstance(model, SequenceModel)
    state: list[Tensor] | None = None
    for begins, batch in source.whole(batch_size):
        start = zero_state(model, len(batch.x)) if begins else state
        batch = batch._replace(state=start).to(_device(model))
        loss, out, state = score_on(model, batch)
        yield batch, loss, out


@overload
def predict(
    model: nn.Module, x: Any, *, batch_size: int = 64, probabilities: bool = False, stateful: bool = False,
    window: int | None = None, labels: Literal[False] = False,
) -> Tensor | list[Tensor]: ...  # fmt: skip


@overload
def predict(
    model: nn.Module, x: Any, *, batch_size: int = 64, probabilities: bool = False, stateful: bool = False,
    window: int | None = None, labels: bool,
) -> Tensor | list[Tensor] | list[Any]: ...  # fmt: skip


def predict(
    model: nn.Module, x: Any, *, batch_size: int = 64, probabilities: bool = False, stateful: bool = False,
    window: int | None = None, labels: bool = False,
) -> Tensor | list[Tensor] | list[Any]:  # fmt: skip
    """Return the predictions of the deployed chain.

    Args:
        model: as for `fit`.
        x: a tensor, array, list of unequal lengths, `(x, lengths)`, `PackedSequence` or `Dataset` (its targets
            are ignored).
        batch_size: sequences at a time.
        probabilities: return the softmax of the scores (classification only).
        stateful: read x, one long text or series or a batch of equal lengths, in windows with a carried state. The
            predictions are those of the whole; the memory beside them is that of a window.
        window: time steps read at a time with `stateful`; None for about 4,000.
        labels: return the names of the most likely classes, for a model with `label_names`, in place of the scores:
            a list of strings for task "sequence", else a list of them for each sequence.

    Returns:
        On the CPU. Task "sequence": `(N, V)`. Otherwise `(N, T, V)`, or a list of `(T_i, V)` if lengths differ. With
        `stateful` `(T, V)` for one text or series. Of a module of another kind, its outputs likewise, cut to the
        lengths it returns, or `(N, T, ...)` with the time steps of x to those of x; `(N, C)` are not cut.

    Raises:
        InputError: as `fit`, before anything is computed.
    """
    batch_size, x = integer("batch_size", batch_size), unpacked(opened(x), None)[0]
    model = model.inner if isinstance(model, AnyModule) else model
    if flag("labels", labels):
        names = names_of(model) if isinstance(model, nn.Module) else None
        if names is None or probabilities:
            wanted = "probabilities=False" if names else "a model that `fit` trained on names, or with label_names set"
            raise InputError("labels", "True beside probabilities" if names else "True", wanted)
        scores = predict(model, x, batch_size=batch_size, stateful=stateful, window=window)
        return [as_names(one, names) for one in scores]
    if not isinstance(model, nn.Module):
        raise InputError("model", shown(model), "a model of this package, or any torch.nn.Module")
    if not isinstance(model, Model):
        if flag("probabilities", probabilities):
            raise InputError("probabilities", "True for a module whose outputs may be anything", "False")
        if flag("stateful", stateful):
            check_stateful(model)
        if window is not None:
            raise InputError("window", shown(window), "None: a module of your own reads a sequence whole")
        with _deployed(model):
            return predict_module(model, x, batch_size)
    if flag("probabilities", probabilities) and model.objective != "cross_entropy":
        raise InputError("probabilities", "True for a regression", "False")
    if flag("stateful", stateful):
        check_stateful(model)
        assert isinstance(model, SequenceModel)
        return _predict_carried(model, as_series(x, model), batch_size, window, probabilities)
    if window is not None:
        raise InputError("window", shown(window), "None, or stateful=True: a sequence is read whole otherwise")
    padded, lengths = model.read_inputs(x)
    outs: list[Tensor] = []
    with _deployed(model):
        for part, steps in zip(padded.split(batch_size), lengths.split(batch_size), strict=True):
            t = int(steps.max())
            out = model(part[:, :t].to(_device(model)), steps).cpu()
            outs += list(torch.softmax(out, -1) if probabilities else out)
    if model.task == "sequence":
        return torch.stack(outs)
    steps = model.output_lengths(lengths)
    parts = [o[:n] for o, n in zip(outs, steps.tolist(), strict=True)]
    return torch.stack(parts) if len(steps.unique()) == 1 else parts


def _predict_carried(
    model: SequenceModel, series: Series, batch_size: int, window: int | None, probabilities: bool
) -> Tensor:
    """Predict long sequences window by window: `(N, T, V)`, or `(T, V)` for one without a batch axis."""
    window = None if window is None else integer("window", window, extra=", or None")
    steps = series.x.shape[1]
    for where in series.windows(steps, batch_size, None):
        series.take(*where)  # checks all values before anything is computed
    found = torch.empty(len(series.x), steps, model.output_size, dtype=model.readout.weight.dtype)
    state: list[Tensor] | None = None
    with _deployed(model):
        for places, first, width in series.windows(steps, batch_size, window):
            x = series.take(places, first, width).to(_device(model))
            state = state if first else zero_state(model, len(x))
            out, state = model(x, state=state, return_state=True)
            rows = slice(places[0][0], places[-1][0] + 1)
            found[rows, first : first + width] = torch.softmax(out, -1) if probabilities else out
    return found[0] if series.single else found


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _deployed(model: nn.Module) -> Iterator[None]:
    with evaluation_mode(model), torch.no_grad():
        yield
