"""`TimeModel`: the part of a model that rules over time use, whoever made the model."""

from contextlib import AbstractContextManager
from typing import ClassVar

from torch import Tensor

from hbll_seq.cells import Cell, own_precision
from hbll_seq.data.batch import Batch
from hbll_seq.engine.execution import Execute
from hbll_seq.losses import objective
from hbll_seq.models.base import Model
from hbll_seq.models.scoring import predict_on, score


class TimeModel(Model):
    """Base of models that rules over time train.

    Attributes:
        family: "recurrent".
        whole_layers: whether every recurrent layer sees the sequences and time steps of the batch.
    """

    family: ClassVar[str] = "recurrent"
    whole_layers: bool = True

    @property
    def cells(self) -> list[Cell]:
        """The cells of all recurrent layers, in the order of their numbers."""
        raise NotImplementedError

    @property
    def targets_in_time(self) -> bool:
        """Whether targets belong to time steps, those where the batch's mask is True."""
        return self.task != "sequence"

    def update_by(self, execute: Execute, x: Tensor) -> AbstractContextManager[object]:
        """Return a context for the forward and backward pass of one update, with layers run by `execute`."""
        return own_precision(x)

    @property
    def drops(self) -> bool:
        """Whether the latest update drew values that the deployed chain has to draw again."""
        return False

    def training_loss(
        self, batch: Batch, execute: Execute, *, lookup: bool = False
    ) -> tuple[Tensor, Tensor | None, list[Tensor] | None]:
        """Return the mean loss of a batch with gradient, the loss per time step `(B, T)` without (or None), and the
        state after the batch (`models.scoring.predict_on`).

        Args:
            batch: the data.
            execute: runs the recurrent layers.
            lookup: see `SequenceModel.forward`.
        """
        out, state = predict_on(self, batch, execute=execute, lookup=lookup)
        return *objective(self.objective, out, batch), state

    def deployed_loss(self, batch: Batch) -> float:
        """Return the mean loss of the deployed chain in the model's present mode, without gradient."""
        return score(self, batch)[0]
