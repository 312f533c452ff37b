"""The state that a stateful run carries from one window of its streams to the next.

The state is detached, so credit ends at a window's first time step: between windows this is truncated BPTT, whatever
the rule does inside them. It is zero where streams start: at the first window of every epoch, and of every group of
sequences that are read side by side.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.sources import Source
from hbll_seq.data.streaming import check_state
from hbll_seq.data.streams import Streams
from hbll_seq.errors import DivergenceError, InputError
from hbll_seq.models.base import Model
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.scoring import score_on
from hbll_seq.rules import Rule, StepResult


def check_stateful(model: nn.Module, rule: Rule[Any] | None = None) -> None:
    """Refuse a model, or a rule, that cannot carry a state on.

    Raises:
        InputError: not a recurrent model of time steps, one with another loss, a bidirectional one, or a rule that
            starts from zero.
    """
    inner = model.inner if isinstance(model, Model) else model
    if inner is not model and isinstance(inner, SequenceModel):
        came = "True beside loss=, metrics= or sample_weight="
        raise InputError("stateful", came, "the model's own objective: leave these three out")
    if not isinstance(model, SequenceModel):
        why = "which has no state" if isinstance(inner, Model) else "a module of your own"
        raise InputError(
            "stateful", f"True for a {type(inner).__name__}, {why}",
            "a recurrent model: SequenceModel, LanguageModel, CharLM, AudioTagger, WaveModel",
        )  # fmt: skip
    if getattr(model, "bidirectional", False):
        came = "True for a bidirectional model, which must see a sequence's end first"
        raise InputError("stateful", came, "a model that reads forward in time")
    if model.task == "sequence":
        came = "True for a model with one target per sequence (task='sequence')"
        raise InputError("stateful", came, "task='step' or task='next', with targets in every window")
    if rule is not None and not rule.carries_state:
        came = f"True with rule {rule.name!r}, which starts every batch from a zero state"
        raise InputError("stateful", came, "a rule whose class says carries_state = True: hbll, bptt, tbptt, dsf")


def carries(model: nn.Module) -> bool:
    """Return whether `check_stateful` accepts a model."""
    return isinstance(model, SequenceModel) and not model.bidirectional and model.task != "sequence"


def zero_state(model: SequenceModel, rows: int) -> list[Tensor]:
    """Return the zero state of every layer, `(rows, S)`."""
    return [cell.initial(rows, model.readout.weight.detach()) for cell in model.cells]


class Carried:
    """The carried state of a run; a run whose source is no `Streams` carries none.

    Call `enter` with every batch, then `leave` with the rule's result, or `pass_over` if no update is made.

    Args:
        model: the model to train.
        source: the training data.
        batch_size: number of streams, or of sequences side by side.

    Attributes:
        streams: the source, or None.
    """

    def __init__(self, model: Model, source: Source, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self.streams = source if isinstance(source, Streams) else None
        self._state: list[Tensor] | None = None

    def enter(self, batch: Batch, step: int) -> Batch:
        """Return training batch number `step` (from 0) with its start state."""
        if self.streams is None:
            return batch
        assert isinstance(self._model, SequenceModel)
        if self._state is None or self.streams.begins(step, self._batch_size):
            self._state = zero_state(self._model, self.streams.rows(step, self._batch_size))
        return batch._replace(state=self._state)

    def leave(self, result: StepResult, number: int) -> None:
        """Take over the state after update `number` (from 1).

        Raises:
            InputError: the rule reported none.
            DivergenceError: it is not finite.
        """
        if self.streams is None:
            return
        if result.state is None:
            raise InputError("rule", "a StepResult without state", "StepResult(..., state=...): it says carries_state")
        if not all(bool(torch.isfinite(one).all()) for one in result.state):
            raise DivergenceError(
                f"step {number}: the state after the window is not finite. The model holds the weights of its last "
                "finite loss. Try a smaller lr, or a smaller clip; the figures so far are in error.history."
            )
        self._state = [one.detach() for one in result.state]

    def pass_over(self, batch: Batch) -> None:
        """Carry the state over a batch in which no target counts."""
        if self.streams is not None:
            self._state = score_on(self._model, batch)[2]

    def take_over(self, state: list[Tensor] | None) -> None:
        """Carry on a state that was computed elsewhere."""
        self._state = state

    def state_dict(self) -> list[Tensor] | None:
        """Return the state for a checkpoint: one tensor a layer, or None."""
        return self._state

    def load_state_dict(self, state: Any) -> None:
        """Restore a state returned by `state_dict`; None starts from zero at the next window.

        Raises:
            InputError: not one finite tensor `(B, S)` a layer.
        """
        if self.streams is None or state is None:
            self._state = None
            return
        assert isinstance(self._model, SequenceModel)
        rows = len(state[0]) if isinstance(state, list) and state and isinstance(state[0], Tensor) else 0
        shapes = [(rows, cell.state_size) for cell in self._model.cells]
        self._state = check_state(state, shapes, self._model.readout.weight.detach())
