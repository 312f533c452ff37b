"""The outcome to explain: arguments checked, the sequence cut after it, its loss."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.tensors import as_tensor
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.tree import auto_block


class Question(NamedTuple):
    """One outcome a sequence.

    Attributes:
        x: `(B, T, ...)` the input up to and including the outcome's step.
        y: `(B,)` or `(B, C)` its target.
        outcome: its step.
    """

    x: Tensor
    y: Tensor
    outcome: int


def unit_of(model: Model) -> str:
    """Name the unit of the model's loss."""
    return "squared units" if model.objective == "mse" else "nats"


def inputs(model: Model, x: Any) -> Tensor:
    """Bring `x` to the model's device: symbols int64, features float64."""
    x = as_tensor(x, "x")
    least = 1 if model.family == "layered" else 2
    if x.ndim < 2 or (model.family != "layered" and x.shape[1] < least):
        raise InputError("x", f"shape {tuple(x.shape)}", "(B, T) or (B, T, D) with T >= 2")
    device = next(model.parameters()).device
    return x.to(device, torch.int64 if model.input_kind == "symbols" else torch.float64)


def targets(model: Model, y: Any, x: Tensor) -> Tensor:
    """Bring `y` to the device of `x`: classes int64, values float64."""
    y = as_tensor(y, "y").to(x.device, torch.int64 if model.objective == "cross_entropy" else torch.float64)
    if y.ndim < 1 or y.shape[0] != x.shape[0]:
        raise InputError("y", f"shape {tuple(y.shape)}", f"one target for each of {x.shape[0]} sequences")
    return y


def ask(model: Model, x: Any, y: Any, outcome: int | None) -> Question:
    """Check x, y and `outcome` as `credit` takes them, and cut the sequences after the outcome's step.

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


def steps_of(block_size: int | str, x: Tensor) -> int:
    """Check `block_size` and return the steps of a block for `x` `(B, T, ...)`.

    Raises:
        InputError: not an integer >= 1 or "auto".
    """
    if block_size == "auto":
        return auto_block(x.shape[1], x.shape[0])
    if not isinstance(block_size, int) or isinstance(block_size, bool) or block_size < 1:
        raise InputError("block_size", repr(block_size), 'an integer >= 1 or "auto"')
    return min(block_size, x.shape[1])


def check_rolled(rolled: int | str) -> None:
    """Refuse a `rolled` that is neither an integer >= 1 nor "auto"."""
    if rolled != "auto" and (not isinstance(rolled, int) or isinstance(rolled, bool) or rolled < 1):
        raise InputError("rolled", repr(rolled), 'an integer >= 1 or "auto"')


def most_rolled(rolled: int | str, levels: int) -> int:
    """Return how many states to roll where two nodes join; "auto" is measured (benchmarks.credit)."""
    return rolled if isinstance(rolled, int) else max(12, 2 * levels)
