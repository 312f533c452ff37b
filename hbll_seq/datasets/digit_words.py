"""`digitwords`: spoken strings of digits with transcripts, put together from the Free Spoken Digit Dataset."""

import os
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from hbll_seq.data.scalars import check_seed, choice, integer, number
from hbll_seq.datasets.fsdd import Recording, read_samples, recordings_of
from hbll_seq.datasets.speech import Speech, SpokenPart
from hbll_seq.errors import InputError

RATE = 8000  # samples per second
FEWEST, MOST = 3, 7  # digits in a string
PAUSE = 0.05, 0.35  # seconds before, between and after digits
LEVEL = 0.1  # root mean square of a take
TESTED, HELD = 5, 10  # takes 0-4 are tested and 5-9 held out where speakers are seen


def load_digitwords(
    held_out: str | None = "jackson",
    validation: str | None = None,
    n: int = 2048,
    n_validation: int = 128,
    n_test: int = 256,
    noise: float = 0.01,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
) -> Speech:
    """Make strings of 3 to 7 spoken digits, each by one speaker, with pauses of 50 to 350 ms and noise throughout.

    Takes are cut close to the digit. The hiss of some recordings would start and stop with it; the noise hides that.

    Args:
        held_out: the speaker of the test strings, who is in no other part; None for a test of unseen takes (0 to 4) of
            all speakers.
        validation: a second speaker, of the validation strings alone; None for validation on unseen takes (5 to 9) of
            the training speakers.
        n, n_validation, n_test: strings of each part. No take is in two parts.
        noise: standard deviation of the noise; digits are scaled to a root mean square of 0.1.
        seed: same seed, same strings; the global random state is not touched.
        path: folder of `digit_speaker_take.wav` files; `$HBLL_SEQ_DATA/fsdd` when None.

    Raises:
        InputError: files absent; an unknown speaker, or none left to train on; a size out of range.
    """
    sizes = [integer(name, value) for name, value in (("n", n), ("n_validation", n_validation), ("n_test", n_test))]
    noise, seed = number("noise", noise), check_seed(seed)
    recordings = recordings_of(path)
    speakers = sorted({r.speaker for r in recordings})
    for name, one in (("held_out", held_out), ("validation", validation)):
        if one is not None:
            choice(name, one, tuple(speakers))
    kept = [s for s in speakers if s not in (held_out, validation)]
    if not kept or (validation is not None and validation == held_out):
        raise InputError("held_out", repr(held_out), f"another than validation={validation!r}, and a third to train on")

    def part(r: Recording) -> Literal["train", "validation", "test"]:
        if held_out is not None and r.speaker == held_out:
            return "test"
        if validation is not None and r.speaker == validation:
            return "validation"
        if held_out is None and r.take < TESTED:
            return "test"
        return "validation" if validation is None and TESTED <= r.take < HELD else "train"

    g = torch.Generator().manual_seed(seed)
    made = {}
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        mine = [r for r in recordings if part(r) == name]
        if not mine:
            raise InputError("path", f"no recording for the {name} part", "takes 0 to 10 and more of every speaker")
        made[name] = _strings(mine, size, noise, g)
    how = "unseen takes of seen speakers" if held_out is None else f"speaker {held_out} held out"
    return Speech(
        made["train"], made["validation"], made["test"], "0123456789", RATE,
        f"digit strings, Free Spoken Digit Dataset, {how}",
    )  # fmt: skip


def _strings(recordings: list[Recording], n: int, noise: float, g: Generator) -> SpokenPart:
    """Make `n` strings, each of one speaker's takes."""
    takes: dict[str, list[tuple[int, Tensor]]] = {}
    for r in recordings:
        takes.setdefault(r.speaker, []).append((r.digit, _take(r)))
    speakers, waves, transcripts = sorted(takes), list[Tensor](), list[str]()
    for _ in range(n):
        mine = takes[speakers[_draw(len(speakers), g)]]
        string = [mine[_draw(len(mine), g)] for _ in range(FEWEST + _draw(MOST - FEWEST + 1, g))]
        parts = [_pause(g)]
        for _, sound in string:
            parts += [sound, _pause(g)]
        wave = torch.cat(parts)
        waves.append(wave + noise * torch.randn(len(wave), generator=g, dtype=torch.float32))
        transcripts.append("".join(str(digit) for digit, _ in string))
    return SpokenPart(waves, transcripts)


def _draw(count: int, g: Generator) -> int:
    return int(torch.randint(count, (1,), generator=g))


def _pause(g: Generator) -> Tensor:
    low, high = PAUSE
    share = float(torch.rand(1, generator=g, dtype=torch.float32))
    return torch.zeros(int(RATE * (low + (high - low) * share)), dtype=torch.float32)


def _take(recording: Recording) -> Tensor:
    """Return `(samples,)` float32 at the common level."""
    samples = read_samples(recording.file).astype(np.float32)
    return torch.from_numpy(samples * np.float32(LEVEL / max(float(np.sqrt(np.mean(samples**2))), 1.0)))
