"""Augmentation: copies of training sounds that differ in irrelevant properties."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hbll_seq.audio.samples import as_waves
from hbll_seq.data.checks import check_lengths
from hbll_seq.data.scalars import check_seed, integer, number
from hbll_seq.data.tensors import as_tensor, plain
from hbll_seq.errors import InputError

MOST_SPEED = 5.0  # 150 times as fast
MOST_COLOUR = 20.0  # nats: 86 dB, beyond which float32 overflows


def vary(
    waves: Sequence[Tensor], *, copies: int = 1, speed: float = 0.0, colour: float = 1.0, seed: int = 0
) -> list[Tensor]:
    """Copy every wave through another microphone, and at another speed if wanted.

    Unknown speakers differ in pitch, tempo, and the frequency response of room and microphone. A network that heard few
    speakers takes these for part of the word.

    Args:
        waves: each `(samples,)`; integers are scaled by their full range (`audio.samples`).
        copies: copies of every wave.
        speed: logarithm of the largest factor of speed, 0.22 for 0.8 to 1.25 times, by linear interpolation (`Augment`
            resamples). It changes the pitch too; on digits of four unknown speakers that helped one and harmed two.
        colour: standard deviation of each of four smooth curves over log frequency (flat, tilt, one period of cosine
            and of sine) that are added to the log power spectrum, in nats (1 nat is 4.3 dB).
        seed: same seed, same copies; the global random state is not touched.

    Returns:
        `copies * len(waves)` waves, all first copies first; lengths differ.

    Raises:
        InputError: a size out of range, or a wave that is empty, not finite or not one-dimensional.
    """
    copies = integer("copies", copies, least=0)
    speed, colour = number("speed", speed, most=MOST_SPEED), number("colour", colour, most=MOST_COLOUR)
    found = as_waves(waves)
    g = torch.Generator().manual_seed(check_seed(seed))
    return [coloured(_faster(w.float(), speed, g), colour, g) for _ in range(copies) for w in found]


def _faster(wave: Tensor, most: float, g: torch.Generator) -> Tensor:
    factor = math.exp((2 * float(torch.rand(1, generator=g, dtype=torch.float32)) - 1) * most)
    size = max(1, round(len(wave) / factor))
    return functional.interpolate(wave[None, None], size=size, mode="linear", align_corners=True)[0, 0]


def coloured(wave: Tensor, most: float, g: torch.Generator, size: int | None = None) -> Tensor:
    """Return a wave `(samples,)` through a random filter with standard deviation `most`; see `vary`.

    Args:
        wave: the wave.
        most: `colour` of `vary`.
        g: generator of the filter.
        size: samples of the Fourier transform, at least those of the wave, which is several times as slow where it has
            large prime factors; None for the wave's.
    """
    size = len(wave) if size is None else size
    spectrum = torch.fft.rfft(wave, n=size)
    # log frequency, like ears and mel filters
    mel = torch.log1p(torch.linspace(0, 4000 / 700, len(spectrum), dtype=wave.dtype))
    k = 2 * mel / mel[-1].clamp(min=1e-6) - 1
    curves = torch.stack([torch.ones_like(k), k, torch.cos(math.pi * k), torch.sin(math.pi * k)])
    nats = most * torch.randn(4, generator=g, dtype=wave.dtype) @ curves
    return torch.fft.irfft(spectrum * torch.exp(nats / 2).to(wave.device), n=size)[: len(wave)]


def spec_augment(
    x: Tensor, lengths: Tensor, *, bands: int = 4, steps: int = 8, masks: int = 1, seed: int = 0
) -> Tensor:
    """Set bands and spans to zero, which should be the mean: SpecAugment (Park et al. 2019) without its time warping.

    torchaudio's masks take no generator of their own and no lengths.

    Args:
        x: `(n, T, D)` normalised spectra, zero after each length.
        lengths: `(n,)`.
        bands: widest run of features to hide, below D.
        steps: longest span to hide, in time steps; at most a quarter of a recording.
        masks: number of masks of each kind.
        seed: same seed, same masks; the global random state is not touched.

    Returns:
        A copy of x; in each recording `masks` runs of 0..`bands` features and of 0..`steps` time steps are zero.
    """
    x = plain(x, "x") if isinstance(x, Tensor) else as_tensor(x, "x")
    lengths = as_tensor(lengths, "lengths")
    if x.ndim != 3 or not x.numel():
        raise InputError("x", f"shape {tuple(x.shape)}", "(n, T, D)")
    lengths = check_lengths(lengths, len(x), x.shape[1])
    bands = integer("bands", bands, least=0, most=x.shape[2] - 1)
    steps = integer("steps", steps, least=0, most=x.shape[1])
    masks = integer("masks", masks, least=0, most=100)
    g, n = torch.Generator().manual_seed(check_seed(seed)), len(x)
    hidden = torch.zeros(x.shape, dtype=torch.bool)
    for _ in range(masks):
        hidden |= _run(x.shape[2], torch.full((n,), bands), torch.full((n,), x.shape[2]), g)[:, None, :]
        hidden |= _run(x.shape[1], (lengths // 4).clamp(max=steps), lengths, g)[:, :, None]
    return x.masked_fill(hidden.to(x.device), 0.0)


def _run(size: int, most: Tensor, ends: Tensor, g: torch.Generator) -> Tensor:
    """Return `(n, size)` bool: True in a run of 0..most places per row that ends by `ends`."""
    width = (torch.rand(len(most), generator=g) * (most + 1)).long()
    first = (torch.rand(len(most), generator=g) * (ends - width + 1)).long()
    place = torch.arange(size)
    return (place >= first[:, None]) & (place < (first + width)[:, None])
