"""The outcome that credit is asked for: arguments checked, the sequence cut after it, its loss."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional

from hbll_seq.data.outcomes import as_outcomes
from hbll_seq.models.base import Model


class Question(NamedTuple):
    """One outcome a sequence: x `(B, T, ...)` up to and including its step, its target y `(B,)` or `(B, C)`."""

    x: Tensor
    y: Tensor
    outcome: int


def outcome_loss(objective: str, out: Tensor, y: Tensor) -> Tensor:
    """Loss of predictions `(..., V)` for targets `(...)`, or of `(..., C)` for `(..., C)`: `(...)`."""
    if objective == "mse":
        return (out - y).square().mean(-1)
    return functional.cross_entropy(out.flatten(0, -2), y.flatten(), reduction="none").view(out.shape[:-1])


def unit_of(model: Model) -> str:
    """Unit of the model's loss."""
    return "squared units" if model.objective == "mse" else "nats"


def ask(model: Model, x: Any, y: Any, outcome: int | None) -> Question:
    """Check the arguments of `credit`; see there.

    Raises:
        InputError: x or y that `fit` would not take, an outcome outside the sequence, or a target that is missing.
    """
    found = as_outcomes(x, y, model, outcome)
    step, device = found.common_step(), next(model.parameters()).device
    return Question(found.x[:, : step + 1].to(device), found.y.to(device), step)
