"""Measured data with a fixed train and test part: the result of image and sound loaders."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, eq=False)
class TrainTest:
    """Labelled sequences in two parts; one label per sequence.

    Attributes:
        train_x: `(n, T, D)` float32, zeros after each length; `test_x` likewise.
        train_y: `(n,)` int64 class numbers; `test_y` likewise.
        train_lengths: `(n,)` int64, or None when every sequence fills all T steps; `test_lengths` likewise.
        classes: number of classes.
        source: the data and the split, in words.
        train_cause: `(n,)` int64 time step that the answer depends on, or None if unknown; `test_cause` likewise.
        order: `(T,)` int64: time step t shows pixel `order[t]`; None if the loader did not permute them.
    """

    train_x: Tensor
    train_y: Tensor
    train_lengths: Tensor | None
    test_x: Tensor
    test_y: Tensor
    test_lengths: Tensor | None
    classes: int
    source: str
    order: Tensor | None = None
    task: Literal["sequence"] = "sequence"
    loss: Literal["cross_entropy"] = "cross_entropy"
    train_cause: Tensor | None = None
    test_cause: Tensor | None = None

    @property
    def input_size(self) -> int:
        """D, the features of one time step."""
        return self.train_x.shape[2]

    def __repr__(self) -> str:
        """Return one line: source, shapes, classes."""
        return (
            f"TrainTest({self.source}: train_x {tuple(self.train_x.shape)}, "
            f"test_x {tuple(self.test_x.shape)}, {self.classes} classes)"
        )
