"""The engine's options: one frozen object, checked when it is made."""

import math
from dataclasses import dataclass, fields
from typing import Any

from hbll_seq.cells import PRECISIONS
from hbll_seq.data.scalars import as_float, flag, integer, integer_or_auto, plain_number, shown
from hbll_seq.engine.memory import memory_bytes
from hbll_seq.errors import InputError

EXECUTIONS = ("auto", "measured", "sequential", "exact-forward", "parallel")
CARRIES = ("calibrated", "own", "none")
OLD_CARRIES = ("learned", "blended")
# Finest tolerances with bfloat16 products. Rounding leaves 1e-10 .. 6e-6 on fresh and trained cells, up to 1e-4 with
# the recurrent weights doubled; boundaries that agree to 1e-4 cost the gradient less than bfloat16 does (docs/notes).
FINEST_BF16 = 1e-4


@dataclass(frozen=True)
class Options:
    """The options for training recurrent layers. The defaults are meant to suit every model and machine.

    Args:
        block_size: time steps K of a *credit block*: the discount acts at its ends, and it has a loss of its own.
            "auto" depends on length and batch alone, so that one seed means the same objective on every machine.
        sweeps: consistency sweeps, or "auto": as many as the tolerance needs; exact boundaries instead, if that is
            more than `most`. A fixed number is used with any residual; the history then says "forced".
        feedback: feedback corrections, or "auto": likewise, with an exact pass in order instead.
        pull: weight of the pull to the posterior (docs/method.md#the-probabilistic-reading), or "auto": above 0 only
            while a fixed number of sweeps leaves gaps.
        tolerance: target of the boundaries' relative inconsistency
            (docs/method.md#solving-for-the-states-consistency-sweeps), and of what the next sweep would change: the
            mean of all, and 0.3 of the worst.
        feedback_tolerance: target of the feedback messages' relative squared residual, and of what the next correction
            would change (docs/method.md#solving-for-the-messages-feedback-corrections); with n > 64 blocks, times
            (64 / n)^2.
        carry: "calibrated" (the cell's own, scaled per unit by earlier sweeps' measurements), "own", or "none" (Jacobi
            sweeps, and no carry in the feedback's scan).
        execution: schedule; the gradient is the same within the tolerances.
            "sequential": whole sequences in order, a compiled call each way where the cell has one; depth 2 T.
            "exact-forward": boundaries by one roll in order, then all blocks at once, forward and back.
            "parallel": all blocks at once, boundaries by consistency sweeps; exact boundaries where they do not agree.
            "auto": the fastest for the layer, the shape and this machine by `engine.schedule.choose`.
            "measured": the fastest of timed updates on this machine, remembered in a file and in checkpoints.
        execution_block: time steps of a block that runs at once, "auto" or a number. It divides `block_size` if
            messages are discounted.
        group: execution blocks in flight, or None for all at once.
        memory: budget for the activations of the blocks in flight, in bytes or as "512MB"; decides `group`.
        most: the most sweeps, and the most corrections, that "auto" may spend.
        discount: factor on the feedback message that enters a credit block. 1 is the whole credit of BPTT; 0 leaves
            each block its own loss, the credit of truncated BPTT; in between, credit from k blocks ahead counts
            discount^k. "auto" is the rule's choice (docs/method.md#discount).
        precision: "float32", or "bf16": the products inside blocks, forward and back, take factors rounded to
            bfloat16 (`cells.mixed`). Weights, gates, states, messages, scans, losses and gradients stay float32, the
            read-out and the deployed chain too. The two tolerances are then at least 1e-4. A CPU without AVX512-BF16
            uses no compiled rolls for it. Not measured on a GPU.
        capture: record the rolls of step-by-step cells (your own, minGRU, a GRU of more than 512 units)
            as CUDA graphs, so that a roll of all blocks is one launch (`cells.captured`). On CUDA only, float32
            products only; a recording is made for every shape of batch and keeps its activations. Not yet run on a GPU.

    Raises:
        InputError: an option out of range, or two that exclude each other.
    """

    block_size: int | str = "auto"
    sweeps: int | str = "auto"
    feedback: int | str = "auto"
    pull: float | str = "auto"
    tolerance: float = 3e-4
    feedback_tolerance: float = 3e-4
    carry: str = "calibrated"
    execution: str = "auto"
    execution_block: int | str = "auto"
    group: int | None = None
    memory: int | str | None = None
    most: int = 8
    discount: float | str = "auto"
    precision: str = "float32"
    capture: bool = False

    def __post_init__(self) -> None:
        """Check every option alone, then those that exclude each other."""
        if isinstance(self.block_size, str) and self.block_size == "measured":
            raise InputError("block_size", '"measured"', 'execution="measured": the credit block is no matter of speed')
        for field in fields(self):
            object.__setattr__(self, field.name, plain_number(getattr(self, field.name)))
        for name, least in (("block_size", 1), ("sweeps", 0), ("feedback", 0), ("execution_block", 1)):
            integer_or_auto(name, getattr(self, name), least)
        integer("most", self.most)
        if self.group is not None:
            integer("group", self.group, extra=", or None for all at once")
        _number("pull", self.pull, 'a number >= 0 or "auto"')
        _number("discount", self.discount, 'a number in 0..1 or "auto"', most=1.0)
        flag("capture", self.capture)
        for name, allowed in (("precision", PRECISIONS), ("carry", CARRIES), ("execution", EXECUTIONS)):
            given = getattr(self, name)
            if not isinstance(given, str) or given not in allowed:
                old = name == "carry" and isinstance(given, str) and given in OLD_CARRIES
                gone = ', which is gone: "calibrated" took fewer sweeps in less time' if old else ""
                raise InputError(name, f"{shown(given)}{gone}", f"one of {allowed}")
        for name in ("tolerance", "feedback_tolerance"):
            _tolerance(name, getattr(self, name), self.finest, self.precision)
        self._together()

    def _together(self) -> None:
        """Refuse options that exclude each other."""
        if self.group is not None and self.memory is not None:
            raise InputError("memory", "given beside group", "one of the two")
        if self.memory is not None:
            if not isinstance(self.memory, int | str) or isinstance(self.memory, bool):
                raise InputError("memory", shown(self.memory), 'bytes, or a size like "512MB"')
            memory_bytes(self.memory)
        if self.execution == "measured" and (self.group is not None or self.memory is not None):
            raise InputError("execution", '"measured" beside group or memory', "one of them alone")
        if self.capture and (self.precision != "float32" or self.execution == "sequential"):
            beside = f'precision="{self.precision}"' if self.precision != "float32" else 'execution="sequential"'
            raise InputError("capture", f"True beside {beside}", "float32 products and blocks in parallel")
        if self.execution_block != "auto" and self.execution in ("sequential", "measured"):
            raise InputError("execution_block", f'given beside execution="{self.execution}"', "another execution")
        whole = self.discount == 1
        if isinstance(self.block_size, int) and isinstance(self.execution_block, int) and not whole:
            if self.block_size % self.execution_block:
                got = f"{self.execution_block} beside block_size={self.block_size}"
                raise InputError(
                    "execution_block", got, "a divisor of it, or discount=1: messages are discounted there"
                )
        if self.execution == "sequential" and self.feedback not in ("auto", 0):
            raise InputError("feedback", f'{self.feedback} beside execution="sequential"', '"auto": there is none')
        if self.execution in ("sequential", "exact-forward") and self.sweeps not in ("auto", 0):
            raise InputError("sweeps", f'{self.sweeps} beside execution="{self.execution}"', '"auto": there are none')

    @property
    def finest(self) -> float:
        """The finest tolerance that the precision can meet."""
        return FINEST_BF16 if self.precision == "bf16" else 0.0

    @property
    def budget(self) -> int | None:
        """`memory` in bytes, or None."""
        return None if self.memory is None else memory_bytes(self.memory)

    @classmethod
    def names(cls) -> list[str]:
        """List the names of all options."""
        return [field.name for field in fields(cls)]


def _number(name: str, value: Any, expected: str, most: float = math.inf) -> None:
    auto, number = isinstance(value, str) and value == "auto", isinstance(value, int | float)
    if not auto and (not number or isinstance(value, bool) or not (0 <= value <= most and as_float(value) < math.inf)):
        raise InputError(name, repr(value), expected)


def _tolerance(name: str, value: Any, finest: float, precision: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and value > 0 and math.isfinite(value)):
        raise InputError(name, repr(value), "a finite number > 0")
    if value < finest:
        raise InputError(name, f'{value} with precision="{precision}"', f"at least {finest}: rounding leaves no less")
