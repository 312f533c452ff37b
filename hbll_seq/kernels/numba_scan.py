"""Affine scan on the CPU: one pass over time, all columns of a row in one vectorised inner loop.

A CPU with few cores gains nothing from the log-depth form (it does log n times the work): the
sequential recurrence over n boundaries, vectorised over the B * M columns, is memory bound.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor


@njit(cache=True, error_model="numpy")
def _scan(a: np.ndarray, b: np.ndarray, h: np.ndarray) -> None:
    for i in range(a.shape[0]):
        here, there, ai, bi = h[i], h[i + 1], a[i], b[i]
        for j in range(a.shape[1]):
            there[j] = ai[j] * here[j] + bi[j]


def affine_scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """See `torch_scan.affine_scan`; CPU, float32 or float64."""
    n = a.shape[0]
    h = torch.empty(n + 1, h0.numel(), dtype=a.dtype)
    h[0] = h0.reshape(-1)
    _scan(a.detach().reshape(n, -1).contiguous().numpy(), b.detach().reshape(n, -1).contiguous().numpy(), h.numpy())
    return h.view(n + 1, *h0.shape)
