"""An affine scan on the CPU: one pass over time, all columns of a row in one vectorised inner loop.

A CPU with few cores gains nothing from the log-depth form, which does log n times the work. The
sequential recurrence over n boundaries, vectorised over the columns, is memory bound. One thread is
enough: a row is a few kilobytes, and waking a second thread takes longer than the scan.
The reference is `torch_scan.py`.
"""

import numpy as np
import torch
from torch import Tensor

from hbll_seq.kernels.compiled import compiled


def _rows(a: np.ndarray, b: np.ndarray, h: np.ndarray, first: int, step: int) -> None:
    # The direction is data, not a branch, on purpose. Told that rows go upward, LLVM checks once for the
    # whole scan that the row read and the row written never overlap; they do, over time, and it
    # gives up vectorising (4 times slower in cache). Unable to tell, it checks row by row.
    at = first + (step < 0)
    for _ in range(a.shape[0]):
        here, there, ai, bi = h[at], h[at + step], a[first], b[first]
        for j in range(a.shape[1]):
            there[j] = ai[j] * here[j] + bi[j]
        first += step
        at += step


_scan = compiled(_rows)


def affine_scan(a: Tensor, b: Tensor, start: Tensor, *, reverse: bool = False) -> Tensor:
    """Scan on the CPU, float32 or float64, without gradient; see `torch_scan.affine_scan`."""
    n, columns = a.shape[0], start.numel()
    h = torch.empty(n + 1, columns, dtype=a.dtype)
    h[-1 if reverse else 0] = start.detach().reshape(columns)
    rows = [x.detach().reshape(n, columns).contiguous().numpy() for x in (a, b)]
    _scan(*rows, h.numpy(), n - 1 if reverse else 0, -1 if reverse else 1)
    return h.view(n + 1, *start.shape)
