"""`melodies`: sung-like strings of notes with transcripts, made from a seed, so that speech-to-text needs no files."""

import math

import torch
from torch import Generator, Tensor

from hbll_seq.data.scalars import check_seed, integer, number
from hbll_seq.datasets.speech import Speech, SpokenPart

RATE = 8000  # samples per second
NOTES = "cdefgab"
SEMITONES = 0, 2, 4, 5, 7, 9, 11  # of the notes above c
LOW_C = 261.6  # hertz
FEWEST, MOST = 3, 8  # notes in a melody
PARTIALS = 5


def load_melodies(
    n: int = 512, n_validation: int = 64, n_test: int = 128, noise: float = 0.02, seed: int = 0
) -> Speech:
    """Make melodies of 3 to 8 notes of the scale of C, with transcripts such as "cegc".

    Every melody has an instrument of its own: five partials of random strength, a tuning within a fifth of a tone, a
    loudness, a tempo. Notes last 100 to 300 ms, differ in attack, and follow one another at once or after a pause, so
    that neither their number nor their length is given by the length of the sound.

    Args:
        n, n_validation, n_test: melodies of each part.
        noise: standard deviation of the white noise; notes have amplitudes about 0.3.
        seed: same seed, same melodies; the global random state is not touched.

    Raises:
        InputError: a size out of range.
    """
    sizes = [integer(name, value) for name, value in (("n", n), ("n_validation", n_validation), ("n_test", n_test))]
    noise, g = number("noise", noise), torch.Generator().manual_seed(check_seed(seed))
    train, validation, test = (SpokenPart(*_melodies(size, noise, g)) for size in sizes)
    return Speech(train, validation, test, NOTES, RATE, "melodies made from a seed")


def _melodies(n: int, noise: float, g: Generator) -> tuple[list[Tensor], list[str]]:
    waves, transcripts = [], []
    for _ in range(n):
        count = FEWEST + int(torch.randint(MOST - FEWEST + 1, (1,), generator=g))
        notes = torch.randint(len(NOTES), (count,), generator=g).tolist()
        strengths = torch.rand(PARTIALS, generator=g, dtype=torch.float32) / torch.arange(1, PARTIALS + 1)
        strengths[0] = 0.5 + 0.5 * strengths[0]
        tuning, loudness, tempo = (float(v) for v in torch.rand(3, generator=g, dtype=torch.float32))
        parts = [_silence(g)]
        for note in notes:
            pitch = LOW_C * 2 ** ((SEMITONES[note] + 0.4 * (tuning - 0.5)) / 12)
            parts += [(0.1 + 0.3 * loudness) * _note(pitch, strengths, 0.1 + 0.1 * tempo, g), _silence(g)]
        wave = torch.cat(parts)
        waves.append(wave + noise * torch.randn(len(wave), generator=g, dtype=torch.float32))
        transcripts.append("".join(NOTES[note] for note in notes))
    return waves, transcripts


def _note(pitch: float, strengths: Tensor, least: float, g: Generator) -> Tensor:
    """Return one note: partials that decay, after an attack."""
    seconds, attack, decay = (float(v) for v in torch.rand(3, generator=g, dtype=torch.float32))
    size = int(RATE * (least + 0.1 * seconds))
    t = torch.arange(size, dtype=torch.float32) / RATE
    phases = 2 * math.pi * torch.rand(PARTIALS, generator=g, dtype=torch.float32)[:, None]
    numbers = torch.arange(1, PARTIALS + 1, dtype=torch.float32)[:, None]
    waves = torch.sin(2 * math.pi * pitch * numbers * t + phases)
    rise = (t / (0.005 + 0.03 * attack)).clamp(max=1)
    fall = ((size - torch.arange(size, dtype=torch.float32)) / (0.01 * RATE)).clamp(max=1)
    return (strengths[:, None] * waves).sum(0) / strengths.sum() * rise * fall * torch.exp(-t * (1 + 5 * decay))


def _silence(g: Generator) -> Tensor:
    """Return a pause of up to 120 ms, or none."""
    share = float(torch.rand(1, generator=g, dtype=torch.float32))
    return torch.zeros(max(0, int(RATE * (0.18 * share - 0.06))), dtype=torch.float32)
