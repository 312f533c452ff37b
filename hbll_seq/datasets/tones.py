"""`tones`: sounds with a known cause. A short cue tone early, noise, a question at the end about its pitch."""

import math

import torch

from hbll_seq.data.scalars import check_seed, integer
from hbll_seq.datasets.sequences import Sequences
from hbll_seq.errors import InputError

RATE = 8000  # samples per second


def load_tones(
    seconds: float = 0.5,
    samples_per_step: int = 16,
    pitches: int = 4,
    n: int = 1024,
    noise: float = 0.05,
    seed: int = 0,
) -> Sequences:
    """Make raw waves at 8 kHz in frames.

    A cue of 40 ms at one of `pitches` frequencies (300 Hz up, half an octave apart) lies somewhere in the first
    quarter; white noise throughout; a question of 40 ms at 150 Hz ends the sound.

    Args:
        seconds: length of each sound, at least 0.2.
        samples_per_step: D.
        pitches: 2..8, the classes.
        n: sounds.
        noise: standard deviation of the noise; the tones have amplitude 0.5.
        seed: same seed, same set.

    Returns:
        x `(n, T, D)` float32; y `(n,)` int64 the pitch; cause `(n,)` the time step of the cue's middle.
    """
    for name, value, least in (("samples_per_step", samples_per_step, 1), ("n", n, 1)):
        integer(name, value, least)
    pitches, seed = integer("pitches", pitches, 2, most=8), check_seed(seed)
    if not seconds >= 0.2 or not noise >= 0:
        raise InputError("seconds, noise", f"{seconds}, {noise}", "at least 0.2 and at least 0")
    g = torch.Generator().manual_seed(seed)
    steps = int(seconds * RATE) // samples_per_step
    samples, long = steps * samples_per_step, RATE * 40 // 1000
    y = torch.randint(pitches, (n,), generator=g)
    start = torch.randint(samples // 4 - long, (n,), generator=g)
    phase = 2 * math.pi * torch.rand(n, 1, generator=g, dtype=torch.float32)
    wave = noise * torch.randn(n, samples, generator=g, dtype=torch.float32)
    places = torch.arange(long)
    t, envelope = places.float(), torch.hann_window(long, dtype=torch.float32)
    cue = 0.5 * envelope * torch.sin(2 * math.pi * 300 * 2 ** (y[:, None].float() / 2) * t / RATE + phase)
    wave.scatter_add_(1, start[:, None] + places, cue)
    wave[:, -long:] += 0.5 * envelope * torch.sin(2 * math.pi * 150 * t / RATE)
    return Sequences(
        x=wave.view(n, steps, samples_per_step),
        y=y,
        lengths=None,
        task="sequence",
        loss="cross_entropy",
        input_size=samples_per_step,
        classes=pitches,
        cause=(start + long // 2) // samples_per_step,
    )
