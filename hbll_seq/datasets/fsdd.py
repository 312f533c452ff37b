"""Free Spoken Digit Dataset as raw waves: real speech, 8 kHz, one digit per recording."""

import os
import re
import wave
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hbll_seq.audio.whole import check_whole
from hbll_seq.data.scalars import integer
from hbll_seq.datasets.location import data_folder, missing
from hbll_seq.datasets.train_test import TrainTest
from hbll_seq.errors import InputError

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>\w+)_(?P<take>\d+)\.wav")
_RATE = 8000
_OFFICIAL_TEST_TAKES = 5


class Recording(NamedTuple):
    """A recording; sorted by its fields, any run of recordings mixes digits and speakers."""

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
    split: Literal["speaker", "official", "leave-one-speaker-out"] = "speaker",
) -> TrainTest | dict[str, TrainTest]:
    """Load spoken digits as raw waves, `samples_per_step` samples per time step.

    Args:
        steps: T; the first `steps * samples_per_step` samples are kept (8,000 per second).
        samples_per_step: D.
        held_out: the test speaker with `split="speaker"`; None is the official split.
        normalise: scale the kept samples of each recording to a largest magnitude of 1 ("peak") or
            to a root mean square of 1 ("rms").
        path: folder of `digit_speaker_take.wav` files; `$HBLL_SEQ_DATA/fsdd` when None.
        split: "speaker" tests on `held_out` and trains on all others; "leave-one-speaker-out" does that for
            every speaker in turn (report the mean); "official" tests on takes 0-4 of all speakers, which a linear
            model on log-mel nearly solves.

    Returns:
        x `(n, steps, samples_per_step)` float32, zero after each length; y `(n,)` int64 digit;
        lengths `(n,)` int64 time steps, the last one possibly part filled. Sorted by take, digit, speaker. With
        "leave-one-speaker-out" a dictionary from each held-out speaker to its split.

    Raises:
        InputError: files absent or not 8 kHz 16-bit mono; an unknown speaker or split; a size below 1.
    """
    for argument, size in (("steps", steps), ("samples_per_step", samples_per_step)):
        integer(argument, size)
    if normalise not in ("peak", "rms"):
        raise InputError("normalise", repr(normalise), "'peak' or 'rms'")
    if split not in ("speaker", "official", "leave-one-speaker-out"):
        raise InputError("split", repr(split), "'speaker', 'official' or 'leave-one-speaker-out'")
    recordings = recordings_of(path)
    speakers = sorted({recording.speaker for recording in recordings})
    if split == "speaker" and held_out is not None and held_out not in speakers:
        raise InputError("held_out", repr(held_out), f"None or one of {', '.join(speakers)}")
    if split == "leave-one-speaker-out" and len(speakers) < 2:
        raise InputError("split", f"{split!r} with the one speaker {speakers[0]}", "two speakers or more")
    x, lengths = _waves(recordings, steps, samples_per_step, normalise)
    y = torch.tensor([r.digit for r in recordings])

    def parts(tested: list[bool], how: str) -> TrainTest:
        test = torch.tensor(tested)
        for part, wanted in ((~test, "training"), (test, "test")):
            if not part.any():
                raise InputError("held_out", repr(held_out), f"a split with recordings in the {wanted} part")
        return TrainTest(
            train_x=x[~test], train_y=y[~test], train_lengths=lengths[~test],
            test_x=x[test], test_y=y[test], test_lengths=lengths[test],
            classes=10, source=f"Free Spoken Digit Dataset, {len(speakers)} speakers, {how} held out",
        )  # fmt: skip

    if split == "leave-one-speaker-out":
        return {s: parts([r.speaker == s for r in recordings], f"speaker {s}") for s in speakers}
    if split == "official" or held_out is None:
        return parts([r.take < _OFFICIAL_TEST_TAKES for r in recordings], "takes 0-4")
    return parts([r.speaker == held_out for r in recordings], f"speaker {held_out}")


def recordings_of(path: str | os.PathLike[str] | None) -> list[Recording]:
    """List every recording in the folder, sorted by take, digit, speaker."""
    expected = "WAV files named digit_speaker_take.wav, such as 7_jackson_32.wav"
    folder = data_folder("fsdd", path, expected)
    found: list[Recording] = []
    for file in folder.glob("*.wav"):
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(Recording(int(match["take"]), int(match["digit"]), match["speaker"], file))
    if not found:
        raise missing("fsdd", f"no such file in {folder}", expected)
    return sorted(found)


def _waves(recordings: list[Recording], steps: int, width: int, normalise: str) -> tuple[Tensor, Tensor]:
    """Return x `(n, steps, width)` float32, zero padded, and lengths `(n,)` int64 in time steps."""
    x = np.zeros((len(recordings), steps * width), np.float32)
    lengths = np.empty(len(recordings), np.int64)
    for row, recording in enumerate(recordings):
        samples = read_samples(recording.file)[: steps * width].astype(np.float32)
        # The scale of the kept samples: a loud end that was cut off should not make the rest faint.
        scale = np.abs(samples).max() if normalise == "peak" else np.sqrt(np.mean(samples**2))
        x[row, : len(samples)] = samples / max(float(scale), 1.0)  # 1 is one int16 unit: silence stays silent
        lengths[row] = -(-len(samples) // width)
    return torch.from_numpy(x).view(len(recordings), steps, width), torch.from_numpy(lengths)


def read_samples(file: Path) -> np.ndarray:
    """Return `(samples,)` int16 of an 8 kHz mono WAV file, as many as its header announces."""
    check_whole(file)
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
