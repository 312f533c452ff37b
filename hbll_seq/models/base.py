"""The model interface of `fit` and `evaluate`, the same for every kind."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.check_batch import check_batch
from hbll_seq.data.expected import InputKind as InputKind
from hbll_seq.data.expected import Objective as Objective
from hbll_seq.data.expected import Task as Task
from hbll_seq.data.inputs import as_sequences, as_source
from hbll_seq.data.sources import Source
from hbll_seq.errors import InputError
from hbll_seq.models.label_names import check_names, numbered


class Model(nn.Module):
    """Base of the models of this package.

    Attributes:
        family: "recurrent" or "layered"; selects the class for a rule's name.
        task: "sequence" one target for the whole input, "step" one per time step, "next" the next input.
        objective: "cross_entropy" or "mse".
        input_kind: "symbols" `(B, T)` int64, "features" `(B, T, D)` float, or "array" `(B, *input_shape)` float.
        input_size: number of symbols, or of features D (of "array": numbers in all).
        output_size: classes or symbols V, or values C.
        input_shape: shape of one input of kind "array".
        context: most time steps of a sequence, or None for any.
        label_names: the name of every class, in order, or None; `fit` finds them where targets are strings. Names that
            are no strings, not different, or not as many as classes are refused.
        own_loss: name of the loss that belongs to the model, which takes no other; None for a model of `objective`.
    """

    family: ClassVar[str]
    task: Task
    objective: Objective
    input_kind: InputKind
    input_size: int
    output_size: int
    input_shape: tuple[int, ...] = ()
    context: int | None = None
    _label_names: list[str] | None = None
    own_loss: ClassVar[str | None] = None

    @property
    def label_names(self) -> list[str] | None:
        """See the class."""
        return self._label_names

    @label_names.setter
    def label_names(self, names: Sequence[str] | None) -> None:
        count = getattr(self, "output_size", None)
        self._label_names = None if names is None else check_names(names, "label_names", count)

    def __prepare_scriptable__(self) -> "Model":
        """Refuse `torch.jit.script`, which calls this first.

        Raises:
            InputError: always.
        """
        came = f"torch.jit.script of a {type(self).__name__}"
        raise InputError("model", came, "torch.export, or hs.export(model, path)")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the predictions of the deployed model: `(B, T, V)` for tasks "step" and "next", `(B, V)` for
        "sequence".
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the constructor arguments as JSON-able values, for `save`."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Model":
        """Rebuild from `config()`."""
        return cls(**config)

    def prepared(self, x: Any) -> Any:
        """Return x, in a form of `fit`; a model of sound turns lists of waves into time steps and lengths."""
        return x

    @property
    def inner(self) -> nn.Module:
        """The module that `fit` was given: its names are those of checkpoints."""
        return self

    def make_source(
        self, x: Any, y: Any, *, mask: Any, window: int | None, ignore_index: int, weight: Any = None
    ) -> Source:
        """Return a source of batches from x and y in the forms of `fit`.

        Raises:
            InputError: names the argument, the value given and the value expected.
        """
        return as_source(x, self.targets(y), self, mask=mask, window=window, ignore_index=ignore_index)

    @property
    def takes_names(self) -> bool:
        """Whether targets may be the names of classes."""
        return self.objective == "cross_entropy" and self.task != "next" and self.own_loss is None

    def targets(self, y: Any) -> Any:
        """Return targets, names as the numbers of their classes.

        Raises:
            InputError: see `numbered`.
        """
        return numbered(y, self.inner) if self.takes_names else y

    def augmented(self, source: Source, x: Any) -> Source:
        """Return the source of x, a form of `fit`; a model of sound makes its training batches anew."""
        return source

    def check(self, batch: Any) -> Batch:
        """Return a batch made by the user, after a check.

        Raises:
            InputError: see `check_batch`.
        """
        return check_batch(batch, self)

    def rehearse(self, batch: Batch, sources: list[Source]) -> None:
        """Find out before any weight changes what would fail later; see `AnyModule`."""

    def in_run(self, convert: bool) -> AbstractContextManager[object]:
        """Return a context for a run; see `AnyModule`."""
        return nullcontext()

    def read_inputs(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return the inputs of `predict`, padded and checked, and their lengths `(N,)`.

        Raises:
            InputError: as `make_source`.
        """
        return as_sequences(x, self)[:2]

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the time steps of the predictions for inputs of these lengths."""
        return lengths

    def figures(self, source: Source, batch_size: int) -> dict[str, float]:
        """Return loss and other figures over all data, of a model with a loss of its own (`own_loss`)."""
        raise NotImplementedError

    def target_count(self, batch: Batch) -> float:
        """Return what the mean loss of `batch`, the latest trained, divides by: the number of targets that count."""
        return float(len(batch.x) if batch.mask is None else batch.mask.sum())

    @property
    def losses_add(self) -> bool:
        """Whether losses of several batches add up, instead of being averaged."""
        return False

    def metric_values(self) -> dict[str, float]:
        """Return the user's metrics of the latest update."""
        return {}

    def task_settings(self) -> dict[str, Any]:
        """Return what is learned and by what loss, as JSON-able values for the history."""
        return {"task": self.task, "objective": self.objective}


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Put back the buffers of a module at the end: the running means of BatchNorm and the like."""
    held = [(one, name, b, b.detach().clone()) for one in module.modules() for name, b in one._buffers.items()
            if b is not None]  # fmt: skip
    try:
        yield
    finally:
        with torch.no_grad():
            for one, name, b, was in held:
                b.copy_(was)
                one._buffers[name] = b
