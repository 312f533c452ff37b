"""The cost of a text without learning: unigram, gzip and xz in bits per character.

They put a language model's bits per character in relation to the difficulty of the text.
"""

import gzip
import lzma
import math
from collections.abc import Callable

import torch
from torch import Tensor


def bits_per_character(train: Tensor, valid: Tensor, symbols: list[str]) -> dict[str, float]:
    """Return the values that `Text.bits_per_character` describes, for `(characters,)` int64 `train` and `valid`."""
    before, held_out = _utf8(train, symbols), _utf8(valid, symbols)
    values = {"unigram": _unigram(train, valid, len(symbols))}
    for name, size in (("gzip", _gzip_size), ("xz", _xz_size)):
        values[name] = _given(size, before, held_out) * 8 / len(valid)
        values[name + "_alone"] = size(held_out) * 8 / len(valid)
    return values


def _unigram(train: Tensor, valid: Tensor, n_symbols: int) -> float:
    """Return the cross-entropy of `valid` under the add-one frequencies of `train`, in bits."""
    counts = torch.bincount(train, minlength=n_symbols).double() + 1  # (V,)
    bits = (counts.sum() / counts).log() / math.log(2)  # (V,)
    return float(bits[valid].mean())


def _given(size: Callable[[bytes], int], before: bytes, held_out: bytes) -> int:
    """Return the bytes that `held_out` adds after `before`."""
    return size(before + held_out) - size(before)


def _gzip_size(data: bytes) -> int:
    return len(gzip.compress(data, compresslevel=9, mtime=0))


def _xz_size(data: bytes) -> int:
    return len(lzma.compress(data))


def _utf8(numbers: Tensor, symbols: list[str]) -> bytes:
    return "".join([symbols[i] for i in numbers.tolist()]).encode("utf-8", "surrogatepass")
