"""The outcome to explain: arguments checked, the sequence cut after it, its loss."""

from typing import Any, NamedTuple

from torch import Tensor

from hbll_seq.data.outcomes import as_outcomes
from hbll_seq.data.scalars import integer_or_auto
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


def ask(model: Model, x: Any, y: Any, outcome: int | None) -> Question:
    """Check x, y and `outcome` as `credit` takes them, and cut the sequences after the outcome's step.

    Raises:
        InputError: x or y that `fit` would not take, an outcome outside the sequence, or a target that is missing.
    """
    found = as_outcomes(x, y, model, outcome)
    step, device = found.common_step(), next(model.parameters()).device
    return Question(found.x[:, : step + 1].to(device), found.y.to(device), step)


def steps_of(block_size: int | str, x: Tensor) -> int:
    """Check `block_size` and return the steps of a block for `x` `(B, T, ...)`.

    Raises:
        InputError: not an integer >= 1 or "auto".
    """
    block_size = integer_or_auto("block_size", block_size)
    return auto_block(x.shape[1], x.shape[0]) if isinstance(block_size, str) else min(block_size, x.shape[1])


def most_rolled(rolled: int | str, levels: int) -> int:
    """Return how many states to roll where two nodes join; "auto" is measured (benchmarks.credit)."""
    return rolled if isinstance(rolled, int) else max(12, 2 * levels)
