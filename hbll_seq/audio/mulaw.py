"""Mu-law companding (ITU-T G.711's curve): 8 bits that sound like 12."""

import math

import torch
from torch import Tensor

from hbll_seq.errors import InputError


def _levels(levels: int) -> float:
    if not isinstance(levels, int) or levels < 2:
        raise InputError("levels", repr(levels), "an integer >= 2")
    return float(levels - 1)


def mu_law_encode(wave: Tensor, levels: int = 256) -> Tensor:
    """Samples in -1..1 to int64 codes 0..levels-1; louder samples are clipped.

    sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = levels - 1, then rounded down from the middle of a step.
    """
    mu = _levels(levels)
    x = wave.clamp(-1, 1)
    curve = torch.sign(x) * torch.log1p(mu * x.abs()) / math.log1p(mu)
    return ((curve + 1) / 2 * mu + 0.5).to(torch.int64)


def mu_law_decode(codes: Tensor, levels: int = 256) -> Tensor:
    """Codes 0..levels-1 to float32 samples in -1..1."""
    mu = _levels(levels)
    curve = codes.float() / mu * 2 - 1
    return torch.sign(curve) * torch.expm1(curve.abs() * math.log1p(mu)) / mu
