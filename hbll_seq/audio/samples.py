"""Samples of a sound in any type: floats stay, integers are scaled by their full range.

int8 / 128, int16 / 32768, int32 / 2^31, and uint8 (x - 128) / 128, as in WAV files and in the result of `read`: -1..1.
Other integers have no customary full range (Python's own become 64 bits) and are refused.

A sound may bring its rate: a pair of samples and samples per second, as `audio.read` returns it. A list of such pairs
may have several rates; where the front end knows a rate, all are resampled to that.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hbll_seq.audio.resampling import resample
from hbll_seq.data.scalars import as_integer, integer
from hbll_seq.data.tensors import as_tensor, plain
from hbll_seq.errors import InputError

FULL = {torch.int8: 128.0, torch.int16: 32768.0, torch.int32: 2.0**31, torch.uint8: 128.0}
LOWEST = 100  # a wave's rate is at least the front end's over this; a label taken for a rate is mostly lower
SAMPLES = "(samples,): float samples, or int8, int16, int32 or uint8, which are scaled to -1..1"


def as_samples(wave: Any, name: str = "wave", *, least: int = 1) -> Tensor:
    """Return a wave `(samples,)` as float32, or float64 if it was; a tensor stays on its device.

    Raises:
        InputError: not one-dimensional, fewer than `least` samples, not finite, or of a type without a full range.
    """
    samples = as_floats(wave, name)
    if samples.ndim != 1 or len(samples) < least:
        raise InputError(name, f"shape {tuple(samples.shape)}", f"(samples,), at least {least}")
    return samples


def as_floats(wave: Any, name: str) -> Tensor:
    """Return samples of any shape as floats; see `as_samples`."""
    samples = plain(wave, name) if isinstance(wave, Tensor) else as_tensor(wave, name, SAMPLES)
    if samples.dtype in FULL:
        shift = 128.0 if samples.dtype == torch.uint8 else 0.0
        return ((samples.to(torch.float64) - shift) / FULL[samples.dtype]).to(torch.float32)
    if not samples.is_floating_point():
        raise InputError(name, f"dtype {samples.dtype}", SAMPLES)
    if not torch.isfinite(samples).all():
        raise InputError(name, "samples that are not finite", "finite samples")
    return samples if samples.dtype == torch.float64 else samples.to(torch.float32)


def as_waves(waves: Any, rate: int | None = None) -> list[Tensor]:
    """Return every wave of a list, or row of a `(n, samples)` tensor or array; see `as_samples`.

    Args:
        waves: the waves; items of a list may be pairs (samples, samples per second).
        rate: what these pairs are resampled to, as `audio.read` does it; None if no rate is known.

    Raises:
        InputError: as `as_samples`, a pair where no rate is known, a rate that is no number of samples or far below
            `rate`; names the wave's position. One pair in place of a list.
    """
    if isinstance(waves, Tensor):
        waves = plain(waves, "waves")
    elif hasattr(waves, "__array__") and not isinstance(waves, list | tuple):
        waves = waves if isinstance(waves, np.ma.MaskedArray) else as_tensor(waves, "waves")
    single = isinstance(waves, Tensor | np.ndarray) and waves.ndim != 2
    # a DataLoader would draw from the global random state
    other = isinstance(waves, str | bytes | bytearray | dict | DataLoader) or not isinstance(waves, Iterable)
    if single or other:
        came = f"shape {tuple(waves.shape)}" if single else type(waves).__name__
        raise InputError("waves", came, "a list of waves, each (samples,)")
    if has_rate(waves) and as_integer(waves[1]) is not None:
        raise InputError("waves", "one pair of samples and a rate", "a list of waves, [(samples, rate)]")
    found = [
        _at_rate(wave, rate, f"waves[{i}]") if has_rate(wave) else as_samples(wave, f"waves[{i}]")
        for i, wave in enumerate(waves)
    ]
    if not found:
        raise InputError("waves", "none", "at least one wave")
    return found


def has_rate(wave: Any) -> bool:
    """Return whether a wave is a pair of samples and their rate; two numbers are two samples."""
    if not isinstance(wave, tuple) or len(wave) != 2:
        return False
    return isinstance(wave[0], list) or getattr(wave[0], "ndim", 0) > 0  # NumPy's numbers have no axis


def _at_rate(pair: tuple[Any, Any], rate: int | None, name: str) -> Tensor:
    if rate is None:
        raise InputError(name, "a pair of samples and a rate", "samples alone: there is no certain rate to resample to")
    samples, own = as_samples(pair[0], name), integer(f"{name}[1]", pair[1], extra=" samples a second")
    if own * LOWEST < rate:
        wanted = f"samples a second, at least {-(-rate // LOWEST)} for {rate}: no label goes with a wave here"
        raise InputError(f"{name}[1]", own, wanted)
    return samples if own == rate else resample(samples.double(), own, rate).to(samples.dtype)
