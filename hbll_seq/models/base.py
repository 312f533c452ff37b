"""The model interface of `fit` and `evaluate`, the same for every kind."""

from typing import Any, ClassVar

from torch import Tensor, nn

from hbll_seq.data.expected import InputKind as InputKind
from hbll_seq.data.expected import Objective as Objective
from hbll_seq.data.expected import Task as Task


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
    """

    family: ClassVar[str]
    task: Task
    objective: Objective
    input_kind: InputKind
    input_size: int
    output_size: int
    input_shape: tuple[int, ...] = ()
    context: int | None = None

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
