"""The cost of a text without learning: unigram, gzip and xz in bits per character.

They put a language model's bits per character in relation to the difficulty of the text.
"""

import gzip
import lzma
import math
from collections.abc import Callable

import torch
from torch import Tensor

from hbll_seq.text import Tokenizer


def bits_per_character(train: Tensor, valid: Tensor, tokenizer: Tokenizer) -> dict[str, float]:
    """Return the values that `Text.bits_per_character` describes, for symbols `(n,)` of `train` and `valid`."""
    held_out = tokenizer.decode(valid)
    before, after = (one.encode("utf-8", "surrogatepass") for one in (tokenizer.decode(train), held_out))
    values = {"unigram": _unigram(train.long(), valid.long(), tokenizer.vocab_size) / len(held_out)}
    for name, size in (("gzip", _gzip_size), ("xz", _xz_size)):
        values[name] = _given(size, before, after) * 8 / len(held_out)
        values[name + "_alone"] = size(after) * 8 / len(held_out)
    return values


def _unigram(train: Tensor, valid: Tensor, n_symbols: int) -> float:
    """Return the bits of `valid` under the add-one frequencies of `train`."""
    counts = torch.bincount(train, minlength=n_symbols).double() + 1  # (V,)
    bits = (counts.sum() / counts).log() / math.log(2)  # (V,)
    return float(bits[valid].sum())


def _given(size: Callable[[bytes], int], before: bytes, held_out: bytes) -> int:
    """Return the bytes that `held_out` adds after `before`."""
    return size(before + held_out) - size(before)


def _gzip_size(data: bytes) -> int:
    return len(gzip.compress(data, compresslevel=9, mtime=0))


def _xz_size(data: bytes) -> int:
    return len(lzma.compress(data))
