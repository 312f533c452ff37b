"""What inputs and targets are checked against: the little that `data` must know of a model."""

from collections.abc import Iterator
from typing import Literal, Protocol

from torch import nn

Task = Literal["next", "step", "sequence"]
Objective = Literal["cross_entropy", "mse"]
InputKind = Literal["symbols", "features", "array"]


class Expected(Protocol):
    """What a model reads and predicts; every `hbll_seq.models.base.Model` says it. See there for the meanings."""

    task: Task
    objective: Objective
    input_kind: InputKind
    input_size: int
    output_size: int
    input_shape: tuple[int, ...]
    context: int | None

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Whose dtype the input is to have."""
        ...
