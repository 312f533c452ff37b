"""Mu-law companding (ITU-T G.711's curve): 8 bits that sound like 12."""

import math

import torch
from torch import Tensor

from hbll_seq.audio.samples import as_floats
from hbll_seq.data.scalars import integer
from hbll_seq.data.tensors import as_tensor, plain
from hbll_seq.errors import InputError

MOST_LEVELS = 2**24  # float32 distinguishes as many


def _levels(levels: int) -> float:
    return float(integer("levels", levels, least=2, most=MOST_LEVELS) - 1)


def mu_law_encode(wave: Tensor, levels: int = 256) -> Tensor:
    """Turn samples in -1..1 into int64 codes 0..levels-1; louder floats are clipped, integers scaled (`audio.samples`).

    sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = levels - 1, then rounded to the nearest level.
    """
    mu = _levels(levels)
    x = as_floats(wave, "wave").clamp(-1, 1)
    curve = torch.sign(x) * torch.log1p(mu * x.abs()) / math.log1p(mu)
    return ((curve + 1) / 2 * mu + 0.5).to(torch.int64)


def mu_law_decode(codes: Tensor, levels: int = 256) -> Tensor:
    """Turn codes 0..levels-1 into float32 samples in -1..1.

    Raises:
        InputError: codes that are not integers, or outside 0..levels-1.
    """
    mu = _levels(levels)
    codes = plain(codes, "codes") if isinstance(codes, Tensor) else as_tensor(codes, "codes")
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise InputError("codes", f"dtype {codes.dtype}", "integers")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= mu:
        raise InputError("codes", f"codes in {int(codes.min())}..{int(codes.max())}", f"codes in 0..{levels - 1}")
    curve = codes.float() / mu * 2 - 1
    return torch.sign(curve) * torch.expm1(curve.abs() * math.log1p(mu)) / mu
