"""`digitstrings`: strings of spoken digits, and a question about the first one long after it."""

import math
import os

import numpy as np
import torch
from torch import Tensor

from hbll_seq.data.scalars import check_seed, integer, number
from hbll_seq.datasets.fsdd import Recording, read_samples, recordings_of
from hbll_seq.datasets.train_test import TrainTest
from hbll_seq.errors import InputError

RATE = 8000  # samples per second
LONGEST = 4096  # most samples of a digit, half a second
QUESTION = RATE * 40 // 1000


def load_digitstrings(
    digits: int = 3,
    delay: int = 9600,
    samples_per_step: int = 16,
    n: int = 2048,
    n_test: int = 512,
    held_out: str = "jackson",
    noise: float = 0.01,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> TrainTest:
    """Make strings of takes of the Free Spoken Digit Dataset: raw waves at 8 kHz in frames.

    A digit, then `digits - 1` others at random places, faint noise throughout, and a question (40 ms at 150 Hz) that
    ends the sound, `delay` samples or more after the end of the first digit. The answer is the first digit.

    Args:
        digits: digits in a string, at least 1.
        delay: samples between the end of the first digit and the question; room for the others, 4,096 each.
        samples_per_step: D.
        n: strings for training.
        n_test: strings for the test.
        held_out: the speaker of the test strings; the training strings are of all others.
        noise: standard deviation of the noise; digits are scaled to a root mean square of 0.2.
        seed: same seed, same strings; the global random state is not touched.
        path: folder of `digit_speaker_take.wav` files; `$HBLL_SEQ_DATA/fsdd` when None.

    Returns:
        x `(n, T, D)` float32, y `(n,)` int64, no lengths: all fill T steps; cause `(n,)` int64, the time step of the
        first digit's middle.

    Raises:
        InputError: files absent; an unknown speaker; a size out of range.
    """
    for name, value, least in (
        ("digits", digits, 1), ("samples_per_step", samples_per_step, 1), ("n", n, 1), ("n_test", n_test, 1),
    ):  # fmt: skip
        integer(name, value, least)
    delay = integer("delay", delay, LONGEST * (digits - 1), f", room for {digits - 1} digits")
    noise, seed = number("noise", noise), check_seed(seed)
    recordings = recordings_of(path)
    speakers = sorted({r.speaker for r in recordings})
    if held_out not in speakers or len(speakers) < 2:
        raise InputError("held_out", repr(held_out), f"one of {', '.join(speakers)}, and another speaker to train on")
    make = _Maker(digits, delay, samples_per_step, noise, torch.Generator().manual_seed(seed))
    train_x, train_y, train_cause = make([r for r in recordings if r.speaker != held_out], n)
    test_x, test_y, test_cause = make([r for r in recordings if r.speaker == held_out], n_test)
    return TrainTest(
        train_x=train_x, train_y=train_y, train_lengths=None, test_x=test_x, test_y=test_y, test_lengths=None,
        classes=10, source=f"strings of {digits} spoken digits, question {delay} samples after the first, "
        f"speaker {held_out} held out", train_cause=train_cause, test_cause=test_cause,
    )  # fmt: skip


class _Maker:
    def __init__(self, digits: int, delay: int, width: int, noise: float, g: torch.Generator) -> None:
        self._digits, self._delay, self._width, self._noise, self._g = digits, delay, width, noise, g

    def __call__(self, recordings: list[Recording], n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make x, y and cause of `n` strings."""
        takes = [_take(r) for r in recordings]
        chosen = torch.randint(len(takes), (n, self._digits), generator=self._g)
        total = LONGEST + self._delay + QUESTION
        total = -(-total // self._width) * self._width
        x = self._noise * torch.randn(n, total, generator=self._g, dtype=torch.float32)
        cause = torch.empty(n, dtype=torch.int64)
        for row, string in zip(x, chosen, strict=True):
            first = takes[int(string[0])]
            row[: len(first)] += first
            self._others(row, len(first), [takes[int(k)] for k in string[1:]])
        t = torch.arange(QUESTION, dtype=torch.float32)
        envelope = 0.5 * torch.hann_window(QUESTION, dtype=torch.float32)
        x[:, -QUESTION:] += envelope * torch.sin(2 * math.pi * 150 * t / RATE)
        for i, string in enumerate(chosen):
            cause[i] = len(takes[int(string[0])]) // 2 // self._width
        y = torch.tensor([recordings[int(string[0])].digit for string in chosen])
        return x.view(n, -1, self._width), y, cause

    def _others(self, row: Tensor, begin: int, takes: list[Tensor]) -> None:
        """Lay the other digits between the first one and the question, in order, gaps drawn at random."""
        free = self._delay - sum(len(take) for take in takes)
        cuts = torch.rand(len(takes), generator=self._g, dtype=torch.float32).sort().values * free
        at = float(begin)
        before = 0.0
        for take, cut in zip(takes, cuts.tolist(), strict=True):
            at += cut - before
            row[int(at) : int(at) + len(take)] += take
            at, before = at + len(take), cut


def _take(recording: Recording) -> Tensor:
    """Return `(samples,)` float32 with a root mean square of 0.2, at most `LONGEST`."""
    samples = read_samples(recording.file)[:LONGEST].astype(np.float32)
    return torch.from_numpy(samples * np.float32(0.2 / max(float(np.sqrt(np.mean(samples**2))), 1.0)))
