"""What would fail in the middle of a run with a module of the user's fails before: a rehearsal on the first batch."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.data.checks import check_lengths
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.data.pairs import Pairs
from hbll_seq.data.sources import Source
from hbll_seq.engine import Engine, Options
from hbll_seq.errors import InputError
from hbll_seq.models.base import kept_buffers
from hbll_seq.models.torch_losses import CTC, TorchLoss, needed

if TYPE_CHECKING:
    from hbll_seq.models.any_module import AnyModule


def rehearse(model: "AnyModule", batch: Batch, sources: list[Source]) -> None:
    """Score the first batch with gradient, in the model's mode; then check the labels of all data in memory.

    Buffers (the running means of BatchNorm) and the random state stay as they are.

    Args:
        model: the model, on its device.
        batch: the first batch, on that device.
        sources: training data, and held-out data.

    Raises:
        InputError: a module or loss that fails, outputs without a graph, a loss that is no scalar, targets that do not
            fit the outputs.
    """
    engine = Engine(Options(discount=1.0))

    def execute(
        layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
    ) -> tuple[Tensor, Tensor]:
        return engine.layer(layer, cell, x, state, lengths, engine.credit_block(x.shape[1], len(x)), 1.0, end=end)

    with kept_buffers(model.inner), borrowed_generators(batch.x.device, 0), model.update_by(execute, batch.x):
        with torch.enable_grad():
            out, lengths, loss = _called(model, batch)
            if not loss.requires_grad:
                name = "loss" if out.requires_grad else "model"
                what = "a loss" if out.requires_grad else "outputs"
                raise InputError(
                    name, f"{what} without a graph", "a gradient: no detach(), no_grad() or argmax between"
                )
    for source in sources:
        if isinstance(source, Pairs):
            _check_targets(model, source, batch, out, lengths)


def _called(model: "AnyModule", batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return outputs, their lengths and the loss of a batch; errors of the user's code name the argument."""
    shape = f"{tuple(batch.x.shape)} of {batch.x.dtype}"
    try:
        out, lengths = model.called(batch)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError("model", f"a module that fails on x {shape} ({_first(error)})", "one that takes it") from error
    model.loss.classes = None
    try:
        scored = model.loss(out, lengths, batch)
        if model.metrics:
            model.metrics.of(scored, out, lengths, batch, model.loss)
    except InputError:
        raise
    except Exception as error:
        came = f"one that fails on outputs {tuple(out.shape)} and targets {tuple(batch.y.shape)} ({_first(error)})"
        hint = '; "bce" reads probabilities, "bce_with_logits" scores' if model.loss.named() == "bce" else ""
        raise InputError("loss or metrics" if model.metrics else "loss", came, f"one that takes them{hint}") from error
    if isinstance(model.loss, TorchLoss) and model.loss.kind != "values" and out.ndim > 1:
        rows = scored.out if scored.out is not None else out
        model.loss.classes = rows.shape[-1]
    return out, lengths, scored.loss


def _check_targets(model: "AnyModule", source: Pairs, batch: Batch, out: Tensor, lengths: Tensor | None) -> None:
    """Check all labels of the data against the classes of the outputs, and those of CTC against its steps."""
    loss, labels = model.loss, source.labels()
    if not isinstance(loss, TorchLoss) or loss.kind == "values" or labels.is_floating_point() or not labels.numel():
        return
    if isinstance(loss, CTC):
        loss.refuse_blank(labels)
    if loss.ignored is not None:
        labels = labels[labels != loss.ignored]
    if labels.numel():
        loss.check_labels(*(int(v) for v in labels.aminmax()))
    # outputs no longer than the inputs: no sequence can have more
    if isinstance(loss, CTC) and source.target_lengths is not None and out.shape[1] <= batch.x.shape[1]:
        loss.check_alignment(needed(source.y, source.target_lengths), source.lengths)


def check_module_batch(batch: Any, model: "AnyModule") -> Batch:
    """Return a batch made by the user, floats in the module's dtype.

    Raises:
        InputError: no `Batch`, or tensors that do not belong together.
    """
    if not isinstance(batch, Batch):
        raise InputError("batch", type(batch).__name__, "a hbll_seq.Batch(x, lengths, y, mask)")
    weights = next(model.inner.parameters())
    for name in ("x", "y"):
        value = getattr(batch, name)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.device != weights.device:
            came = f"{tuple(value.shape)} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"batch.{name}", came, f"a tensor (B, ...) on {weights.device}")
    x, y = (one.to(weights.dtype) if one.is_floating_point() else one for one in (batch.x, batch.y))
    rows, steps = len(batch.x), batch.x.shape[1] if batch.x.ndim > 1 else 1
    if len(batch.y) != rows:
        raise InputError("batch.y", f"{len(batch.y)} targets", f"{rows}, one a sequence")
    if not isinstance(batch.lengths, Tensor):
        raise InputError("batch.lengths", type(batch.lengths).__name__, f"a tensor ({rows},)")
    return batch._replace(x=x, y=y, lengths=check_lengths(batch.lengths.cpu(), rows, steps))


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
