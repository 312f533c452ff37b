"""Other sampling rates: torchaudio's filter, a windowed sinc."""

from math import gcd

import torch
from torch import Tensor

from hbll_seq.audio.backend import torchaudio

MOST_TAPS = 1 << 25  # of torchaudio's filters, in all: 256 MB in float64


def resample(wave: Tensor, rate: int, to: int) -> Tensor:
    """Return a wave `(samples,)`, floats, at another rate: `ceil(samples * to / rate)` samples of the same dtype.

    torchaudio makes a filter for each of `to / gcd` phases, each longer than `rate / gcd`. For rates without a large
    common divisor (22,254 and 16,000) these take gigabytes; a file's odd rate gets SciPy's polyphase filter then.
    """
    common = gcd(rate, to)
    phases, length = to // common, rate // common
    if phases * (length + 14 * max(1, length // phases)) > MOST_TAPS:
        from scipy.signal import resample_poly

        return torch.from_numpy(resample_poly(wave.numpy(), phases, length)).to(wave.dtype)
    found: Tensor = torchaudio().functional.resample(wave, length, phases)
    return found
