"""The outcome that credit is asked for: arguments checked, the sequence cut after it, its loss."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.tensors import as_tensor
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model


class Question(NamedTuple):
    """One outcome a sequence: x `(B, T, ...)` up to and including its step, its target y `(B,)` or `(B, C)`."""

    x: Tensor
    y: Tensor
    outcome: int


def unit_of(model: Model) -> str:
    """Unit of the model's loss."""
    return "squared units" if model.objective == "mse" else "nats"


def inputs(model: Model, x: Any) -> Tensor:
    """`x` as a tensor on the model's device: symbols int64, features float64."""
    x = as_tensor(x, "x")
    least = 1 if model.family == "layered" else 2
    if x.ndim < 2 or (model.family != "layered" and x.shape[1] < least):
        raise InputError("x", f"shape {tuple(x.shape)}", "(B, T) or (B, T, D) with T >= 2")
    device = next(model.parameters()).device
    return x.to(device, torch.int64 if model.input_kind == "symbols" else torch.float64)


def targets(model: Model, y: Any, x: Tensor) -> Tensor:
    """`y` as a tensor on the device of `x`: classes int64, values float64."""
    y = as_tensor(y, "y").to(x.device, torch.int64 if model.objective == "cross_entropy" else torch.float64)
    if y.ndim < 1 or y.shape[0] != x.shape[0]:
        raise InputError("y", f"shape {tuple(y.shape)}", f"one target for each of {x.shape[0]} sequences")
    return y


def ask(model: Model, x: Any, y: Any, outcome: int | None) -> Question:
    """Check the arguments of `credit`; see there.

    Raises:
        InputError: wrong shapes, an outcome outside the sequence, or a target that is missing.
    """
    x = inputs(model, x)
    if y is None and model.task != "next":
        raise InputError("y", "None", "a target for each sequence (only next-step models bring their own)")
    if model.task == "sequence":
        return Question(x, targets(model, y, x), max(x.shape[1] - 1, 0))
    last = x.shape[1] - (2 if y is None else 1)
    outcome = last if outcome is None else outcome
    if not isinstance(outcome, int) or not 0 <= outcome <= last:
        raise InputError("outcome", outcome, f"a step in 0..{last}")
    if y is None:
        return Question(x[:, : outcome + 1], x[:, outcome + 1], outcome)
    y = targets(model, y, x)
    per_step = y.ndim == (2 if model.objective == "cross_entropy" else 3)
    if per_step and y.shape[1] != x.shape[1]:
        raise InputError("y", f"shape {tuple(y.shape)}", f"a target for each of {x.shape[1]} steps")
    return Question(x[:, : outcome + 1], y[:, outcome] if per_step else y, outcome)
