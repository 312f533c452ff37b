"""The outcome to explain: arguments checked, the sequence cut after it."""

from typing import Any, NamedTuple

from torch import Tensor

from hbll_seq.data.outcomes import as_outcomes
from hbll_seq.data.scalars import flag, integer_or_auto
from hbll_seq.models.base import Model
from hbll_seq.tree import auto_block


class Question(NamedTuple):
    """One outcome a sequence, of the sequences whose outcome stands at the same step.

    Attributes:
        x: `(B, T, ...)` the input up to and including the outcome's step.
        y: `(B,)` or `(B, C)` its target.
        outcome: its step.
        rows: `(B,)` int64, which sequences of the batch.
    """

    x: Tensor
    y: Tensor
    outcome: int
    rows: Tensor


class Asked(NamedTuple):
    """What was asked: the whole batch `(N, T, ...)` up to the last outcome, each one's steps, one question a length."""

    x: Tensor
    lengths: Tensor
    questions: list[Question]


def unit_of(model: Model) -> str:
    """Name the unit of the model's loss."""
    return "squared units" if model.objective == "mse" else "nats"


def ask(model: Model, x: Any, y: Any, outcome: int | None) -> Asked:
    """Check x, y and `outcome` as `credit` takes them, and cut every sequence after its outcome's step.

    Raises:
        InputError: x or y that `fit` would not take, an outcome outside the sequence, or a target that is missing.
    """
    found, device, questions = as_outcomes(x, model.targets(y), model, outcome), next(model.parameters()).device, []
    for step in found.step.unique(sorted=True).flip(0).tolist():
        rows = (found.step == step).nonzero()[:, 0]
        questions.append(Question(found.x[rows, : step + 1].to(device), found.y[rows].to(device), step, rows))
    longest = questions[0].outcome + 1
    return Asked(found.x[:, :longest].to(device), found.step + 1, questions)


def steps_of(block_size: int | str, steps: int, rows: int) -> int:
    """Check `block_size` and return the steps of a block for `rows` sequences of `steps` steps.

    Raises:
        InputError: not an integer >= 1 or "auto".
    """
    block_size = integer_or_auto("block_size", block_size)
    return auto_block(steps, rows) if isinstance(block_size, str) else min(block_size, steps)


def flag_or_auto(name: str, value: bool | str) -> bool | str:
    """Return `value`, "auto", True or False."""
    return value if isinstance(value, str) and value == "auto" else flag(name, value)


def most_rolled(rolled: int | str, levels: int) -> int:
    """Return how many states to roll where two nodes join; "auto" is measured (benchmarks.credit)."""
    return rolled if isinstance(rolled, int) else max(14, 2 * levels)
