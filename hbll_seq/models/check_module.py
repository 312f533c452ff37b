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
from hbll_seq.engine import Engine, Execute, Options
from hbll_seq.errors import InputError
from hbll_seq.models.base import kept_buffers
from hbll_seq.models.label_names import check_count, names_of
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
            out, lengths = _outputs(model, batch, execute)
            for source in sources:
                if isinstance(source, Pairs):
                    _check_targets(model, source, batch, out)
            loss = _score(model, out, lengths, batch)
    if not loss.requires_grad:
        name = "loss" if out.requires_grad else "model"
        what = "a loss" if out.requires_grad else "outputs"
        raise InputError(name, f"{what} without a graph", "a gradient: no detach(), no_grad() or argmax between")


def _outputs(model: "AnyModule", batch: Batch, execute: Execute) -> tuple[Tensor, Tensor | None]:
    """Return outputs and their lengths; note the number of classes."""
    try:
        out, lengths = model.called(batch, execute)
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        came = f"a module that fails on x {tuple(batch.x.shape)} of {batch.x.dtype} ({_first(error)})"
        raise InputError("model", came, "one that takes it") from error
    if isinstance(model.loss, TorchLoss) and model.loss.kind != "values" and out.ndim > 1:
        model.loss.classes = model.loss.classes_last(out, batch.y).shape[-1]
        if model.takes_names:
            check_count(names_of(model.module), model.loss.classes)
    return out, lengths


def _score(model: "AnyModule", out: Tensor, lengths: Tensor | None, batch: Batch) -> Tensor:
    """Return the loss, after a call of the metrics."""
    name = "loss"
    try:
        scored = model.loss(out, lengths, batch)
        if model.metrics:
            name = "metrics"
            model.metrics.of(scored, out, lengths, batch, model.loss)
    except InputError:
        raise
    except Exception as error:
        came = f"one that fails on outputs {tuple(out.shape)} and targets {tuple(batch.y.shape)} ({_first(error)})"
        hint = '; "bce" reads probabilities, "bce_with_logits" scores' if model.loss.named() == "bce" else ""
        raise InputError(name, came, f"one that takes them{hint}") from error
    return scored.loss


def _check_targets(model: "AnyModule", source: Pairs, batch: Batch, out: Tensor) -> None:
    """Check all labels of the data against the classes of the outputs, and those of CTC against its steps."""
    loss = model.loss
    loss.check_targets(source)
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
    weights = next(model.inner.parameters(), None)
    if weights is None:
        raise InputError("model", f"a {type(model.inner).__name__} without parameters", "parameters to train")
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
