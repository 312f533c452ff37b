"""Recordings of unequal lengths with one label each, in three parts."""

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """One part: waves, each `(samples,)` float32 in -1..1, and labels `(n,)` int64."""

    waves: list[Tensor]
    labels: Tensor


class Waves(NamedTuple):
    """Recordings for `AudioClassifier.prepare`, part by part.

    Attributes:
        train: see `Part`; no speaker is in two parts.
        validation: for choosing settings.
        test: for the final figure.
        names: names of the labels, in order.
        rate: samples per second.
        source: the data and the split, in words.
    """

    train: Part
    validation: Part
    test: Part
    names: list[str]
    rate: int
    source: str

    def __repr__(self) -> str:
        """Return one line: source and sizes."""
        sizes = ", ".join(f"{name} {len(getattr(self, name).waves)}" for name in ("train", "validation", "test"))
        return f"Waves({self.source}: {sizes}, {len(self.names)} labels, {self.rate} samples a second)"
