"""The part of a model that inputs and targets are checked against."""

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from torch import nn

Task = Literal["next", "step", "sequence"]
Objective = Literal["cross_entropy", "mse"]
InputKind = Literal["symbols", "features", "array"]


class Expected(Protocol):
    """Inputs and outputs of a model; `hbll_seq.models.base.Model` documents the attributes."""

    task: Task
    objective: Objective
    input_kind: InputKind
    input_size: int
    output_size: int
    input_shape: tuple[int, ...]
    context: int | None

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Iterate over the weights; inputs get their dtype."""
        ...

    def prepared(self, x: Any) -> Any:
        """Return x, where the model turns raw inputs into time steps with these in their place."""
        ...
