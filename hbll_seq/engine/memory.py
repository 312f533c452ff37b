"""Budgets of memory: bytes from a size in words, and bytes that a roll keeps per time step."""

import re

import torch

from hbll_seq.cells import Cell
from hbll_seq.errors import InputError


def memory_bytes(memory: int | str) -> int:
    """Convert a budget to bytes: 1000000 or "512MB" (kB, MB, GB are powers of 1000, KiB, MiB, GiB of 1024).

    Raises:
        InputError: not a positive size.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(memory))
    if match is None or match[2].upper() not in units or float(match[1]) <= 0:
        raise InputError("memory", repr(memory), 'bytes, or a size like "512MB"')
    return int(float(match[1]) * units[match[2].upper()])


def activation_bytes(cell: Cell, dtype: torch.dtype) -> int:
    """Return a bound on the bytes that one row keeps per time step of a roll with activations, fused or not.

    Input, projection (4 gates at most), gates and candidates before and after their nonlinearity, states, and
    the gradients on the gates: measured on the GRU's fused roll it is 12 d + D numbers, on autograd's about 24 d + 2 D.
    """
    return torch.finfo(dtype).bits // 8 * (24 * cell.hidden_size + 2 * cell.input_size)
