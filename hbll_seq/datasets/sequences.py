"""A fixed set of sequences with known causes: the result of the synthetic tasks."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from hbll_seq.data.scalars import integer


@dataclass(frozen=True, eq=False)
class Sequences:
    """n sequences, their answers, and the time steps the answers depend on.

    Attributes:
        x: `(n, T)` int64 symbols or `(n, T, D)` float32 features.
        y: `(n,)` int64 or `(n, C)` float32 for task "sequence"; `(n, T)` int64 for task "step",
            -100 where a step has no target.
        lengths: `(n,)` int64, or None when every sequence fills all T steps.
        task: "sequence" (one answer each) or "step" (one per time step).
        loss: "cross_entropy" or "mse".
        input_size: number of symbols for symbol input, D for features.
        classes: width of the read-out: number of classes, or of values to regress.
        cause: `(n,)` or `(n, m)` int64, the time step(s) that an answer depends on:
            a credit diagram should show them.
    """

    x: Tensor
    y: Tensor
    lengths: Tensor | None
    task: Literal["sequence", "step"]
    loss: Literal["cross_entropy", "mse"]
    input_size: int
    classes: int
    cause: Tensor

    @classmethod
    def of_classes(
        cls, x: Tensor, y: Tensor, task: Literal["sequence", "step"], input_size: int, classes: int, cause: Tensor
    ) -> "Sequences":
        """Return sequences that fill all T steps and ask for classes."""
        return cls(x, y, None, task, "cross_entropy", input_size, classes, cause)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.x.shape[0]

    def split(self, n_valid: int) -> tuple["Sequences", "Sequences"]:
        """Return `(train, valid)`: the last `n_valid` sequences are for validation. Views, nothing is copied.

        Raises:
            InputError: no integer with `0 < n_valid < n`.
        """
        n_valid = integer("n_valid", n_valid, most=len(self) - 1, extra=f", of {len(self)} sequences")
        cut = len(self) - n_valid
        return self._rows(slice(None, cut)), self._rows(slice(cut, None))

    def _rows(self, rows: slice) -> "Sequences":
        lengths = None if self.lengths is None else self.lengths[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], lengths=lengths, cause=self.cause[rows])

    def __repr__(self) -> str:
        """Return one line: shapes and task."""
        return (
            f"Sequences(x {tuple(self.x.shape)}, y {tuple(self.y.shape)}, task {self.task}, "
            f"loss {self.loss}, input_size {self.input_size}, classes {self.classes})"
        )
