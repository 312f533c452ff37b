"""Mu-law companding (ITU-T G.711's curve): 8 bits that sound like 12. torchaudio computes it."""

import torch
from torch import Tensor

from hbll_seq.audio.backend import torchaudio
from hbll_seq.audio.samples import as_floats
from hbll_seq.data.scalars import integer
from hbll_seq.data.tensors import as_tensor, plain
from hbll_seq.errors import InputError

MOST_LEVELS = 2**24  # float32 distinguishes as many


def _levels(levels: int) -> int:
    return integer("levels", levels, least=2, most=MOST_LEVELS)


def mu_law_encode(wave: Tensor, levels: int = 256) -> Tensor:
    """Turn samples in -1..1 into int64 codes 0..levels-1; louder floats are clipped, integers scaled (`audio.samples`).

    sign(x) ln(1 + mu |x|) / ln(1 + mu), mu = levels - 1, then rounded to the nearest level.
    """
    levels = _levels(levels)
    codes: Tensor = torchaudio().functional.mu_law_encoding(as_floats(wave, "wave").clamp(-1, 1), levels)
    return codes


def mu_law_decode(codes: Tensor, levels: int = 256) -> Tensor:
    """Turn codes 0..levels-1 into float32 samples in -1..1.

    Raises:
        InputError: codes that are not integers, or outside 0..levels-1.
    """
    levels = _levels(levels)
    codes = plain(codes, "codes") if isinstance(codes, Tensor) else as_tensor(codes, "codes")
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise InputError("codes", f"dtype {codes.dtype}", "integers")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < levels:
        raise InputError("codes", f"codes in {int(codes.min())}..{int(codes.max())}", f"codes in 0..{levels - 1}")
    wave: Tensor = torchaudio().functional.mu_law_decoding(codes.double(), levels)  # exp(x) - 1 of small x
    return wave.float()
