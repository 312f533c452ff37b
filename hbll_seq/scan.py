"""Affine prefix and reverse scans over boundaries, by the fastest kernel at hand.

    prefix:  h[0] = h0,      h[i+1] = a[i] h[i] + b[i]
    reverse: l[n] = last,    l[i] = b[i] + a[i] l[i+1]

elementwise, for any n >= 1, in float32 or float64. No gradient flows through a scan: boundaries and
messages are constants of the blocks' own objectives. Kernels: `numba` on the CPU, `torch` anywhere.
"""

import importlib.util

import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.kernels import torch_scan

BACKENDS = ("auto", "torch", "numba")


def backends() -> list[str]:
    """Kernels that can run here."""
    return ["torch"] + (["numba"] if importlib.util.find_spec("numba") else [])


@torch.no_grad()
def prefix_scan(a: Tensor, b: Tensor, h0: Tensor, *, backend: str = "auto") -> Tensor:
    """Boundaries of n affine maps applied one after the other.

    Args:
        a, b: `(n, ...)`, n >= 1.
        h0: `(...)`, the value before the first map.
        backend: "auto", "torch" or "numba".

    Returns:
        `(n+1, ...)`, `h0` first.

    Raises:
        InputError: shapes or dtypes that do not fit, an unknown or unavailable backend.
    """
    _check(a, b, h0, "h0", backend)
    if backend == "numba" or (backend == "auto" and a.device.type == "cpu" and "numba" in backends()):
        from hbll_seq.kernels import numba_scan  # numba takes a second to import: only where a scan runs

        return numba_scan.affine_scan(a, b, h0)
    return torch_scan.affine_scan(a.detach(), b.detach(), h0.detach())


@torch.no_grad()
def reverse_scan(a: Tensor, b: Tensor, last: Tensor, *, backend: str = "auto") -> Tensor:
    """The same from the end: `(n+1, ...)`, `last` last. See `prefix_scan`."""
    _check(a, b, last, "last", backend)
    return prefix_scan(a.flip(0), b.flip(0), last, backend=backend).flip(0)


def _check(a: Tensor, b: Tensor, h: Tensor, name: str, backend: str) -> None:
    if backend not in BACKENDS:
        raise InputError("backend", repr(backend), f"one of {BACKENDS}")
    if backend == "numba" and (a.device.type != "cpu" or "numba" not in backends()):
        raise InputError("backend", f"'numba' for a tensor on {a.device}", "numba installed, and a tensor on the CPU")
    if a.ndim < 1 or a.shape[0] < 1:
        raise InputError("a", f"shape {tuple(a.shape)}", "(n, ...) with n >= 1")
    if b.shape != a.shape:
        raise InputError("b", f"shape {tuple(b.shape)}", f"the shape of a, {tuple(a.shape)}")
    if h.shape != a.shape[1:]:
        raise InputError(name, f"shape {tuple(h.shape)}", f"the shape of one row of a, {tuple(a.shape[1:])}")
    if a.dtype not in (torch.float32, torch.float64) or not a.dtype == b.dtype == h.dtype:
        raise InputError("a", f"dtypes {a.dtype}, {b.dtype}, {h.dtype}", "float32 or float64, the same for all")
