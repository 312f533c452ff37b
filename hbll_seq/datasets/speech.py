"""Utterances with transcripts, in three parts: the result of loaders for speech-to-text."""

from typing import NamedTuple

from torch import Tensor


class SpokenPart(NamedTuple):
    """One part: waves, each `(samples,)` float32 in -1..1, and as many transcripts."""

    waves: list[Tensor]
    transcripts: list[str]


class Speech(NamedTuple):
    """Utterances for a `models.Transcriber`, part by part.

    Attributes:
        train: see `SpokenPart`.
        validation: for choosing settings.
        test: for the final figure.
        labels: the labels that transcripts are made of.
        rate: samples per second.
        source: the data and the split, in words.
    """

    train: SpokenPart
    validation: SpokenPart
    test: SpokenPart
    labels: str
    rate: int
    source: str

    def __repr__(self) -> str:
        """Return one line: source and sizes."""
        parts = {name: getattr(self, name) for name in ("train", "validation", "test")}
        seconds = {k: sum(map(len, part.waves)) / self.rate for k, part in parts.items()}
        sizes = ", ".join(f"{k} {len(part.waves)} ({seconds[k] / 60:.1f} min)" for k, part in parts.items())
        return f"Speech({self.source}: {sizes}, labels {self.labels!r}, {self.rate} samples a second)"
