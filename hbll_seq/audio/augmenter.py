"""`Augment`: fresh copies of training sounds in every epoch, from a seed.

A copy is a function of (seed, epoch, index of the sound), whatever else its batch holds and in whatever order batches
come. A run that is resumed so hears what it would have heard.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbll_seq.audio.augment import MOST_COLOUR, coloured
from hbll_seq.audio.backend import torchaudio
from hbll_seq.audio.resampling import resample
from hbll_seq.audio.samples import as_samples
from hbll_seq.data.scalars import check_seed, integer, number, shown
from hbll_seq.errors import InputError

MOST_SPEED = 1.0  # e times as fast
LOUDEST_NOISE, QUIETEST_NOISE = -60.0, 120.0  # dB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """An augmentation of training sounds; `hbll_seq.models` take one as `augment=`.

    Waves change in the order speed, colour, noise. Then their time steps are masked, as in SpecAugment (Park et al.
    2019): masked values become the recording's mean of that feature, which of normalised steps is zero. All is off
    by default.

    Args:
        speed: logarithm of the largest factor of speed: 0.1 for 0.9 to 1.1 times, uniform in the logarithm and
            rounded to whole percents, by torchaudio's resampling. It changes the pitch too. At least 0.01, or 0.
        colour: standard deviation of random curves over log frequency, in nats; see `vary`.
        noise: lowest and highest signal-to-noise ratio in dB of added white noise, such as (5, 30); None for none.
        bands: widest run of features to mask, below D.
        steps: longest span of time steps to mask; at most a quarter of a recording.
        masks: number of masks of each kind.

    Raises:
        InputError: a value out of range, or nothing to change.
    """

    speed: float = 0.0
    colour: float = 0.0
    noise: tuple[float, float] | None = None
    bands: int = 0
    steps: int = 0
    masks: int = 1

    def __post_init__(self) -> None:
        """Check all values."""
        speed = number("speed", self.speed, most=MOST_SPEED)
        if 0 < speed < 0.01:
            raise InputError("speed", speed, "0, or at least 0.01: factors are whole percents")
        found = dict(
            speed=speed, colour=number("colour", self.colour, most=MOST_COLOUR), noise=_ratios(self.noise),
            bands=integer("bands", self.bands, least=0), steps=integer("steps", self.steps, least=0),
            masks=integer("masks", self.masks, least=0, most=100),
        )  # fmt: skip
        for name, value in found.items():
            object.__setattr__(self, name, value)
        if not (self.changes_waves or self.changes_steps):
            raise InputError("Augment", "nothing to change", "one of speed, colour, noise, bands and steps")

    @property
    def changes_waves(self) -> bool:
        """Whether waves change, not only time steps."""
        return bool(self.speed or self.colour or self.noise)

    @property
    def changes_steps(self) -> bool:
        """Whether time steps are masked."""
        return bool(self.masks and (self.bands or self.steps))

    def config(self) -> dict[str, Any]:
        """Return the arguments as JSON-able values; `augment_from` takes them."""
        found = dataclasses.asdict(self)
        return {**found, "noise": None if self.noise is None else list(self.noise)}

    def shortest(self, samples: int) -> int:
        """Return the fewest samples that a wave of `samples` may become."""
        return math.ceil(samples * 100 / self._percents()[1])

    def longest(self, samples: int) -> int:
        """Return the most samples that a wave of `samples` may become."""
        return math.ceil(samples * 100 / self._percents()[0])

    def wave(self, wave: Tensor, *, seed: int, epoch: int, index: int) -> Tensor:
        """Return the copy of sound number `index` for an epoch, `(samples,)` float32; its length differs with speed.

        Raises:
            InputError: a wave that is empty, not finite or not one-dimensional.
        """
        from scipy.fft import next_fast_len

        out, g = as_samples(wave).float(), draws(seed, epoch, index, 0)
        share, level = torch.rand(2, generator=g, dtype=torch.float32).tolist()
        if self.speed:
            percent = round(100 * math.exp((2 * share - 1) * self.speed))
            out = resample(out, percent, 100)
        if self.colour:
            out = coloured(out, self.colour, g, next_fast_len(len(out), real=True))
        if self.noise is not None:
            ratio = torch.tensor(self.noise[0] + level * (self.noise[1] - self.noise[0])).to(out)
            noise = torch.randn(len(out), generator=g, dtype=out.dtype).to(out.device)
            out = torchaudio().functional.add_noise(out, noise, ratio)
        return out

    def mask(self, x: Tensor, lengths: Tensor, *, seed: int, epoch: int, indices: Sequence[int]) -> Tensor:
        """Return time steps `(n, T, D)` with masks, given their lengths `(n,)` and the sounds' numbers.

        torchaudio's masks are of no use here: they draw from the global random state, for a batch as a whole, and
        do not know that recordings end before T.

        Raises:
            InputError: `bands` that are not below D.
        """
        if not self.changes_steps:
            return x
        if self.bands >= x.shape[2]:
            raise InputError("bands", self.bands, f"less than {x.shape[2]}, the features of a time step")
        n, t, d = x.shape
        g = [draws(seed, epoch, i, 1) for i in indices]
        u = torch.stack([torch.rand(4, self.masks, generator=one, dtype=torch.float32) for one in g])
        lengths = lengths.view(n, 1)
        hidden = _runs(u[:, :2], torch.full((n, 1), self.bands), torch.full((n, 1), d), d)[:, None, :]
        hidden = hidden | _runs(u[:, 2:], (lengths // 4).clamp(max=self.steps), lengths, t)[:, :, None]  # (n, T, D)
        inside = (torch.arange(t) < lengths)[:, :, None].to(x.device)
        mean = x.sum(1, keepdim=True) / lengths[:, :, None].to(x)  # padding is zero
        return torch.where(hidden.to(x.device) & inside, mean, x)

    def _percents(self) -> tuple[int, int]:
        return round(100 * math.exp(-self.speed)), round(100 * math.exp(self.speed))


def augment_from(given: Any) -> Augment | None:
    """Return an `Augment` or None as it is, or made from its `config()`.

    Raises:
        InputError: anything else.
    """
    if given is None or isinstance(given, Augment):
        return given
    names = {field.name for field in dataclasses.fields(Augment)}
    if not isinstance(given, dict) or not set(given) <= names:
        raise InputError("augment", shown(given), "an hs.audio.Augment, its config(), or None")
    return Augment(**given)


def draws(seed: int, epoch: int, index: int, part: int) -> torch.Generator:
    """Return a generator for one sound in one epoch; `part` separates what is drawn for different purposes.

    Raises:
        InputError: a seed, epoch or index that is no integer, or an epoch or index below 0.
    """
    parts = check_seed(seed) % 2**64, integer("epoch", epoch, least=0), integer("index", index, least=0), part
    mixed = np.random.SeedSequence(parts).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]) >> 1)


def _ratios(given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError("noise", shown(given), "the lowest and the highest ratio in dB, such as (5, 30), or None")
    low, high = (number("noise", one, least=LOUDEST_NOISE, most=QUIETEST_NOISE, extra=" dB") for one in given)
    if low > high:
        raise InputError("noise", shown(given), "the lowest ratio first")
    return low, high


def _runs(u: Tensor, most: Tensor, ends: Tensor, size: int) -> Tensor:
    """Return `(n, size)` bool: True in any of m runs of 0..most places that end by `ends`.

    Args:
        u: `(n, 2, m)` numbers in 0..1: width and start of every run.
        most, ends: `(n, 1)`.
        size: places.
    """
    width = (u[:, 0] * (most + 1)).long()
    first = (u[:, 1] * (ends - width + 1)).long()
    place = torch.arange(size)[:, None]
    return ((place >= first[:, None]) & (place < (first + width)[:, None])).any(-1)
