"""`bp` and `bp-deep`: backpropagation through the full path, without and with deep supervision."""

from typing import ClassVar

import torch

from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import number
from hbll_seq.errors import InputError
from hbll_seq.losses import objective
from hbll_seq.models.layered import Layered
from hbll_seq.rules.base import Rule, StepResult, register


@register
class Backprop(Rule[Layered]):
    """Train one path by backpropagation from end to end.

    Args:
        path: the path to train, see `Layered.path`.
    """

    name = "bp"
    family: ClassVar[str] = "layered"

    def __init__(self, path: str | list[int] = "full") -> None:
        if not isinstance(path, str | list | tuple):
            raise InputError("path", type(path).__name__, 'a path: "full", "short", "first" or a list of nodes')
        self.path = path

    def setup(self, model: Layered, generator: torch.Generator) -> None:
        """Refuse a path that the model does not have."""
        model.path(self.path)

    def mark(self, model: Layered) -> None:
        """See `Rule.mark`."""
        model.trained_for = "full" if model.path(self.path) == model.path("full") else None

    def step(self, model: Layered, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        loss, _ = objective(model.objective, model(batch.x, path=self.path), batch)
        loss.backward()
        return StepResult(float(loss.detach()), {"depth": 2.0 * (len(model.path(self.path)) + 1)})


@register
class DeepSupervision(Rule[Layered]):
    """Train the full path by backpropagation with the shared head's loss on every node.

    A baseline for "hbll" with the same loss terms along the full path.

    Args:
        weight: weight of each loss but the last one's, which is 1.
    """

    name = "bp-deep"
    family: ClassVar[str] = "layered"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = number("weight", weight)

    def mark(self, model: Layered) -> None:
        """See `Rule.mark`."""
        model.trained_for = "full"

    def step(self, model: Layered, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        z = model.embed(batch.x)
        losses = []
        for module in model.layers:
            z = module(z)
            losses.append(objective(model.objective, model.head(z), batch)[0])
        total = losses[-1] + self.weight * sum(losses[:-1], start=losses[-1].new_zeros(()))
        total.backward()
        return StepResult(float(losses[-1].detach()), {"depth": 2.0 * model.depth})
