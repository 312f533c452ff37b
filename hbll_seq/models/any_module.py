"""`AnyModule`: a module of the user's, its loss and its metrics, as a model that rules over time train.

Rules ask it for the loss of a batch, with the recurrent layers inside run as they say. It does not know which time
steps targets belong to, so credit is whole under "hbll".
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.data.inputs import as_sequences
from hbll_seq.data.read_pairs import Reading, join, join_weight, read_pairs
from hbll_seq.data.sources import Padded, Source
from hbll_seq.distributed.shards import current
from hbll_seq.distributed.share import whole_outputs
from hbll_seq.engine.execution import Execute, sequential
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model, kept_buffers
from hbll_seq.models.called import lengths_argument, outputs
from hbll_seq.models.check_module import check_module_batch, rehearse
from hbll_seq.models.converted import cells_of, converted, executing, layers_of
from hbll_seq.models.given_loss import GivenLoss, Scored
from hbll_seq.models.given_metrics import GivenMetrics
from hbll_seq.models.over_time import TimeModel
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.torch_losses import EXPECTED, make_loss


class Latest(NamedTuple):
    """The latest trained batch: what its mean loss divides by, and the user's metrics."""

    weight: float | Tensor = 1.0
    metrics: dict[str, float] = {}


class AnyModule(TimeModel):
    """A module with a loss.

    Args:
        module: `forward(x)` or `forward(x, lengths)`, `lengths` `(B,)` on the CPU. It returns outputs `(B, ...)`, or
            `(outputs, lengths)` where it shortens time. Of another tuple, such as that of `nn.GRU`, the first entry is
            the outputs. A model of this package is trained by `loss` in place of its objective.
        loss: a name, a module or a callable, see `fit`; None for the objective of a model of this package.
        metrics: see `fit`.
        ignore_index: label of targets that do not count.

    Attributes:
        module: the module.
        loss: the loss.
        metrics: the metrics.
        own_objective: whether the loss is the module's own.
        latest: figures of the latest trained batch.

    Raises:
        InputError: an argument that cannot be used.
    """

    whole_layers = False

    def __init__(self, module: nn.Module, loss: Any = None, metrics: Any = None, *, ignore_index: int = -100) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise InputError("model", type(module).__name__, "a model of hbll_seq.models, or any nn.Module")
        if isinstance(module, nn.RNNBase) and not module.batch_first:
            raise InputError("model", f"{type(module).__name__} with batch_first=False", "batch_first=True")
        self.module = module
        self.training = module.training
        own = self.own
        self.own_objective = loss is None
        if loss is None:
            if own is None:
                raise InputError("loss", f"None for a {type(module).__name__}", EXPECTED)
            loss = own.objective
        self.loss: GivenLoss = make_loss(loss, ignore_index)
        self.metrics = GivenMetrics(metrics)
        self._lengths = lengths_argument(module)
        self.latest = Latest()
        self._draws: list[Tensor] = []
        if own is not None:
            self.task, self.context = own.task, own.context

    @property
    def inner(self) -> nn.Module:
        """See `Model`."""
        return self.module

    @property
    def own(self) -> Model | None:
        """The module if it is a model of this package, else None."""
        return self.module if isinstance(self.module, Model) else None

    @property
    def cells(self) -> list[Cell]:
        """See `TimeModel`."""
        if isinstance(self.module, SequenceModel):
            return self.module.cells
        return [cell for layer in layers_of(self.module) for cell in cells_of(layer)]

    @property
    def targets_in_time(self) -> bool:
        """See `TimeModel`."""
        inner = self.module
        return isinstance(inner, TimeModel) and inner.targets_in_time and self.loss.kind in ("labels", "values")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Any:
        """Return what the module returns."""
        full = torch.full((len(x),), x.shape[1] if x.ndim > 1 else 1)
        return self.called(Batch(x, full if lengths is None else lengths, x, None))[0]

    def called(self, batch: Batch, execute: Execute = sequential) -> tuple[Tensor, Tensor | None]:
        """Return outputs, and their lengths where the module tells, or where it keeps the steps of x and they matter.

        Args:
            batch: the data.
            execute: runs the layers of a model of this package; those inside another module run as `update_by` says.
        """
        x, lengths = batch.x, batch.lengths
        packable = lengths.clamp(min=1)  # of sequences that ended before a rank's span of time nothing is here
        if isinstance(self.module, SequenceModel):
            out = self.module(x, lengths, execute=execute)
            return out, lengths if self.module.task != "sequence" else None
        if self._lengths is None:
            found = self.module(x)
        elif isinstance(self._lengths, str):
            found = self.module(x, **{self._lengths: packable})
        else:
            found = self.module(x, packable)
        out, told = outputs(found, len(x))
        # (B, n) may be n values of a sequence, as many as x has steps by chance
        steps = out.ndim > 2 or (out.ndim == 2 and batch.target_lengths is not None)
        if told is None and steps and x.ndim > 1 and out.shape[1] == x.shape[1]:
            padded = int(lengths.min()) < x.shape[1]
            told = lengths if padded or (batch.target_lengths is not None and out.ndim > 2) else None
        return out, told

    def scored(self, batch: Batch, execute: Execute = sequential) -> tuple[Scored, Tensor, Tensor | None]:
        """Return the loss of a batch, the outputs and their lengths."""
        out, lengths = self.called(batch, execute)
        batch, out, lengths = whole_outputs(batch, out, lengths, current())
        return self.loss(out, lengths, batch), out, lengths

    def training_loss(
        self, batch: Batch, execute: Execute, *, lookup: bool = False
    ) -> tuple[Tensor, Tensor | None, list[Tensor] | None]:
        """See `TimeModel`; the loss of single time steps is not known, and no state is carried."""
        where = batch.x.device
        self._draws = [torch.get_rng_state(), *([torch.cuda.get_rng_state(where)] if where.type == "cuda" else [])]
        scored, out, lengths = self.scored(batch, execute)
        found = self.metrics.of(scored, out, lengths, batch, self.loss) if self.metrics else {}
        self.latest = Latest(scored.weight, found)
        return scored.loss, None, None

    def update_by(self, execute: Execute, x: Tensor) -> AbstractContextManager[object]:
        """See `TimeModel`."""
        return executing(layers_of(self.module), execute)

    def deployed_loss(self, batch: Batch) -> float:
        """See `TimeModel`; with the random draws of the latest update, and without a change to buffers."""
        with torch.no_grad(), kept_buffers(self.module), self.update_by(sequential, batch.x):
            with borrowed_generators(batch.x.device):
                if self._draws:
                    torch.set_rng_state(self._draws[0])
                    for state in self._draws[1:]:
                        torch.cuda.set_rng_state(state, batch.x.device)
                return float(self.scored(batch)[0].loss)

    def target_count(self, batch: Batch) -> float:
        """See `Model`; 1 for a loss whose size is not known."""
        return float(self.latest.weight)

    @property
    def takes_names(self) -> bool:
        """See `Model`."""
        own, kind = self.own, self.loss.kind
        return kind == "labels" if own is None else own.takes_names and kind in ("labels", "any")

    @property
    def losses_add(self) -> bool:
        """See `Model`."""
        return self.loss.summed

    def metric_values(self) -> dict[str, float]:
        """See `Model`."""
        return self.latest.metrics

    def task_settings(self) -> dict[str, Any]:
        """See `Model`."""
        own = {"task": None} if self.own is None else self.own.task_settings()
        return {**own, "objective": self.loss.named(), "loss": self.loss.described()}

    def config(self) -> dict[str, Any]:
        """Refuse: a module of the user's cannot be rebuilt.

        Raises:
            InputError: always.
        """
        raise InputError("model", f"a {type(self.module).__name__} of your own", "its state_dict, in a file of yours")

    def make_source(
        self, x: Any, y: Any, *, mask: Any, window: int | None, ignore_index: int, weight: Any = None
    ) -> Source:
        """See `Model`."""
        kind, own, y = self.loss.kind, self.own, self.targets(y)
        if self.loss.ignored not in (None, -100):
            ignore_index = int(self.loss.ignored or 0)
        reading = Reading(kind, dtype_of(self.module), self.loss.check_targets)
        if weight is not None and not self.loss.known:
            raise InputError("sample_weight", "given beside a callable loss", "None: weigh the sequences in the loss")
        if own is None:
            return read_pairs(x, y, reading, mask=mask, ignore_index=ignore_index, weight=weight)
        if kind == "any" or (kind == "labels") == (own.objective == "cross_entropy") and kind != "sequences":
            found = own.make_source(x, y, mask=mask, window=window, ignore_index=ignore_index)
            if weight is None:
                return found
            if not isinstance(found, Padded):
                raise InputError("sample_weight", "given for a text or a DataLoader", "sequences in memory")
            return join_weight(found, weight, reading.dtype)
        values, lengths, y = as_sequences(x, own, y)
        return own.augmented(join(values, lengths, y, reading, mask, ignore_index, weight), x)

    def check(self, batch: Any) -> Batch:
        """See `Model`."""
        return check_module_batch(batch, self)

    def rehearse(self, batch: Batch, sources: list[Source]) -> None:
        """Call module and loss once on the first batch; see `check_module.rehearse`."""
        if self.own is not None:
            self.own.rehearse(batch, sources)
        rehearse(self, batch, sources)

    @contextmanager
    def in_run(self, convert: bool) -> Iterator[None]:
        """See `Model`: with `convert`, plain recurrent layers inside are this package's during a run."""
        with nullcontext() if isinstance(self.module, SequenceModel) or not convert else converted(self.module):
            yield

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AnyModule":
        """Move the loss's own tensors with the module's."""
        super()._apply(fn, recurse)
        self.loss.move(fn)
        return self


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's weights, which its inputs get."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters or buffers; the CPU if it has none."""
    return next((one.device for one in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def as_model(
    model: Any, loss: Any = None, metrics: Any = None, *, ignore_index: int = -100, general: bool = False
) -> Model:
    """Return a model that rules train: one of this package as it is, or a module with its loss.

    Args:
        model: a model of this package, an `AnyModule`, or any module.
        loss, metrics, ignore_index: see `AnyModule`. Given for a model of this package, it takes the general path, too.
        general: take the general path in any case.

    Raises:
        InputError: an argument that cannot be used.
    """
    if isinstance(model, AnyModule):
        if loss is not None or metrics is not None:
            raise InputError("loss" if loss is not None else "metrics", "given beside an AnyModule", "its own alone")
        return model
    if isinstance(model, Model) and model.own_loss is not None:
        for name, given in (("loss", loss), ("metrics", metrics)):
            if given is not None:
                raise InputError(
                    name, f"given for a {type(model).__name__}", f"None: {model.own_loss}, and its figures"
                )
        return model
    if isinstance(model, Model) and loss is None and metrics is None and not general:
        return model
    if isinstance(model, Model) and model.family != "recurrent":
        name = "loss" if loss is not None else "metrics" if metrics is not None else "sample_weight"
        raise InputError(name, "given for a network over depth", "None: its rules score every layer by its objective")
    return AnyModule(model, loss, metrics, ignore_index=ignore_index)


def as_evaluated(model: Any, loss: Any, metrics: Any, ignore_index: int) -> Model:
    """Return a model to evaluate, see `as_model`: networks over depth, too, are scored by any loss and metrics."""
    if isinstance(model, Model) and model.family != "recurrent" and (loss is not None or metrics is not None):
        return AnyModule(model, loss, metrics, ignore_index=ignore_index)
    return as_model(model, loss, metrics, ignore_index=ignore_index)
