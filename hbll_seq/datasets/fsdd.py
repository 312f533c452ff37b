"""Free Spoken Digit Dataset as raw wave: real speech, 8 kHz, one digit a recording."""

import os
import re
import wave
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .paths import data_folder, missing
from .train_test import TrainTest

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>\w+)_(?P<take>\d+)\.wav")
_RATE = 8000
_OFFICIAL_TEST_TAKES = 5


class _Recording(NamedTuple):
    """Sorted as it stands: any run of recordings then mixes digits and speakers."""

    take: int
    digit: int
    speaker: str
    file: Path


def load_fsdd(
    steps: int = 512,
    samples_per_step: int = 8,
    held_out: str | None = "jackson",
    normalise: Literal["peak", "rms"] = "peak",
    path: str | os.PathLike[str] | None = None,
) -> TrainTest:
    """Spoken digits as raw wave, `samples_per_step` samples at a step.

    Args:
        steps: T; the first `steps * samples_per_step` samples are kept (8,000 a second).
        samples_per_step: D.
        held_out: the speaker to test on, after training on all others: report this one. None is the
            official split (takes 0-4 test), which a linear model on log-mel nearly solves.
        normalise: scale the kept samples of each recording to a largest magnitude of 1 ("peak") or
            to a root mean square of 1 ("rms").
        path: folder of `digit_speaker_take.wav` files; `$HBLL_SEQ_DATA/fsdd` when None.

    Returns:
        x `(n, steps, samples_per_step)` float32, zero after each length; y `(n,)` int64 digit;
        lengths `(n,)` int64 steps, the last one possibly part filled. Sorted by take, digit, speaker.

    Raises:
        InputError: files absent or not 8 kHz 16-bit mono; an unknown speaker; a size below 1.
    """
    for argument, size in (("steps", steps), ("samples_per_step", samples_per_step)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(argument, repr(size), "an int of at least 1")
    if normalise not in ("peak", "rms"):
        raise InputError("normalise", repr(normalise), "'peak' or 'rms'")
    recordings = _recordings(path)
    speakers = sorted({recording.speaker for recording in recordings})
    if held_out is not None and held_out not in speakers:
        raise InputError("held_out", repr(held_out), f"None or one of {', '.join(speakers)}")
    parts: tuple[list[_Recording], list[_Recording]] = ([], [])
    for r in recordings:
        tested = r.take < _OFFICIAL_TEST_TAKES if held_out is None else r.speaker == held_out
        parts[tested].append(r)
    for part, wanted in zip(parts, ("training", "test"), strict=True):
        if not part:
            raise InputError("held_out", repr(held_out), f"a split with recordings in the {wanted} part")
    train_x, train_lengths = _waves(parts[0], steps, samples_per_step, normalise)
    test_x, test_lengths = _waves(parts[1], steps, samples_per_step, normalise)
    split = "takes 0-4 held out" if held_out is None else f"speaker {held_out} held out"
    return TrainTest(
        train_x=train_x,
        train_y=torch.tensor([r.digit for r in parts[0]]),
        train_lengths=train_lengths,
        test_x=test_x,
        test_y=torch.tensor([r.digit for r in parts[1]]),
        test_lengths=test_lengths,
        classes=10,
        source=f"Free Spoken Digit Dataset, {len(speakers)} speakers, {split}",
    )


def _recordings(path: str | os.PathLike[str] | None) -> list[_Recording]:
    """Every recording in the folder, sorted by take, digit, speaker."""
    expected = "WAV files named digit_speaker_take.wav, such as 7_jackson_32.wav"
    folder = data_folder("fsdd", path, expected)
    found = []
    for file in folder.glob("*.wav"):
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(_Recording(int(match["take"]), int(match["digit"]), match["speaker"], file))
    if not found:
        raise missing("fsdd", f"no such file in {folder}", expected)
    return sorted(found)


def _waves(recordings: list[_Recording], steps: int, width: int, normalise: str) -> tuple[Tensor, Tensor]:
    """x `(n, steps, width)` float32, zero padded, and lengths `(n,)` int64 in steps."""
    x = np.zeros((len(recordings), steps * width), np.float32)
    lengths = np.empty(len(recordings), np.int64)
    for row, recording in enumerate(recordings):
        samples = _read(recording.file)[: steps * width].astype(np.float32)
        # Of what the model hears only: a loud end that was cut off should not make the rest faint.
        scale = np.abs(samples).max() if normalise == "peak" else np.sqrt(np.mean(samples**2))
        x[row, : len(samples)] = samples / max(float(scale), 1.0)  # 1 is one int16 unit: silence stays silent
        lengths[row] = -(-len(samples) // width)
    return torch.from_numpy(x).view(len(recordings), steps, width), torch.from_numpy(lengths)


def _read(file: Path) -> np.ndarray:
    """`(samples,)` int16 of an 8 kHz mono WAV file."""
    try:
        with wave.open(str(file), "rb") as sound:
            rate, bits, channels = sound.getframerate(), sound.getsampwidth() * 8, sound.getnchannels()
            data = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise InputError("path", f"{file} ({error})", "8 kHz 16-bit mono PCM WAV") from error
    if (rate, bits, channels) != (_RATE, 16, 1) or not data:
        got = f"{file}: {rate} Hz, {bits}-bit, {channels} channel(s), {len(data)} bytes of sound"
        raise InputError("path", got, "8 kHz 16-bit mono PCM WAV with sound in it")
    return np.frombuffer(data, "<i2")
