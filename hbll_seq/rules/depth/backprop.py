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
    """The full path, differentiated from end to end.

    Args:
        path: the path that is trained, see `Layered.path`.
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

    def step(self, model: Layered, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        loss, _ = objective(model.objective, model(batch.x, path=self.path), batch)
        loss.backward()
        return StepResult(float(loss.detach()), {"depth": 2.0 * (len(model.path(self.path)) + 1)})


@register
class DeepSupervision(Rule[Layered]):
    """The full path with the shared head's loss on every node: the baseline with as many loss terms as `hbll`.

    Args:
        weight: of the losses before the last one, each.
    """

    name = "bp-deep"
    family: ClassVar[str] = "layered"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = number("weight", weight)

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
