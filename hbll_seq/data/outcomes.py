"""One outcome of each sequence, checked as `fit` checks its data; `credit` and `lag_map` explain it.

x and y have the forms of `fit`, in memory and in float64; a text is one sequence. Targets that do not count
(`ignore_index`, masked, padding) are no outcomes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.expected import Expected
from hbll_seq.data.inputs import as_sequences
from hbll_seq.data.scalars import LARGEST, integer
from hbll_seq.data.targets import check_targets, per_sequence
from hbll_seq.data.tensors import as_tensor
from hbll_seq.errors import InputError


class Outcomes(NamedTuple):
    """The outcomes to explain, one per sequence.

    Attributes:
        x: `(B, T, ...)` padded inputs: int64 symbols, or values in `dtype`.
        lengths: `(B,)` of the inputs.
        y: `(B,)` classes or `(B, C)` values: the outcome's target.
        step: `(B,)` the time step of the outcome, below the length.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor
    step: Tensor

    def common_step(self) -> int:
        """Return the time step of all outcomes.

        Raises:
            InputError: outcomes at different time steps.
        """
        low, high = int(self.step.min()), int(self.step.max())
        if low != high:
            raise InputError(
                "outcome", f"outcomes at steps {low}..{high}", "one step for all: outcome=, or one call a length"
            )
        return low


def as_batch(
    x: Any, y: Any, model: Expected, *, mask: Any = None, ignore_index: int = -100, dtype: torch.dtype = torch.float64
) -> Batch:
    """Return all of x and y as one batch on the CPU, values in `dtype`.

    Raises:
        InputError: as `hbll_seq.data.inputs.as_source`; also for a DataLoader.
    """
    ignore_index = integer("ignore_index", ignore_index, least=-LARGEST)
    x, lengths, y = as_sequences(x, model, y, dtype=dtype)
    return Batch(*check_targets(x, lengths, y, mask, model, ignore_index, dtype=dtype))


def as_outcomes(
    x: Any, y: Any, model: Expected, outcome: int | None = None, *, ignore_index: int = -100,
    dtype: torch.dtype = torch.float64,
) -> Outcomes:  # fmt: skip
    """Return the outcome of each sequence at time step `outcome`.

    Args:
        x: as for `fit`.
        y: as for `fit`; also one target per sequence, `(B,)` classes or `(B, C)` values, for the outcome alone.
        model: the model whose outcomes these are.
        outcome: a time step; None: the last one whose target counts. Ignored if the model has one target per sequence.
        ignore_index: label of time steps that do not count.
        dtype: dtype of values.

    Raises:
        InputError: as `as_batch`; or a time step without a target that counts (names the sequence).
    """
    if outcome is not None:
        outcome = integer("outcome", outcome, least=0)
    x, lengths, y = as_sequences(x, model, y, dtype=dtype)
    if model.task != "sequence" and y is not None and _one_each(y, len(x), model):
        target = per_sequence(y, len(x), model, dtype)
        return Outcomes(x, lengths, target, _inside(outcome, lengths))
    batch = Batch(*check_targets(x, lengths, y, None, model, ignore_index, dtype=dtype))
    if batch.mask is None:
        return Outcomes(batch.x, batch.lengths, batch.y, batch.lengths - 1)
    steps = torch.arange(batch.mask.shape[1])
    last = torch.where(batch.mask, steps, -1).amax(1)
    at = last if outcome is None else _inside(outcome, batch.lengths)
    rows = torch.arange(len(at))
    missing = (at < 0) | ~batch.mask[rows, at.clamp(min=0)]
    if missing.any():
        i = int(missing.nonzero()[0])
        came = "None, and no target that counts" if outcome is None else f"step {outcome}, whose target does not count,"
        raise InputError("outcome", f"{came} in sequence {i}", "a step whose target counts in every sequence")
    return Outcomes(batch.x, batch.lengths, batch.y[rows, at], at)


def _one_each(y: Any, n: int, model: Expected) -> bool:
    """Return whether y is one target for each of n sequences, and not one per time step."""
    if isinstance(y, list) and any(getattr(one, "ndim", 0) for one in y):
        return False
    shape = as_tensor(y, "y").shape
    if model.objective == "cross_entropy":
        return len(shape) == 1 and (n != 1 or shape == (1,))
    return shape == (n, model.output_size) or (model.output_size == 1 and shape == (n,))


def _inside(outcome: int | None, lengths: Tensor) -> Tensor:
    """Return the time step of each sequence's outcome."""
    if outcome is None:
        return lengths - 1
    if outcome >= int(lengths.min()):
        raise InputError("outcome", outcome, f"a step in 0..{int(lengths.min()) - 1}")
    return torch.full_like(lengths, outcome)
