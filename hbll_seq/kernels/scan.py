"""Affine prefix and reverse scans over boundaries, by the fastest available kernel.

    prefix:  h[0] = h0,      h[i+1] = a[i] h[i] + b[i]
    reverse: l[n] = last,    l[i] = b[i] + a[i] l[i+1]

elementwise, for any n >= 1, in float32 or float64. No gradient flows through a scan: boundaries and
messages are constants of the blocks' own objectives. Kernels: `numba` on the CPU, `triton` on a
CUDA device, `torch` anywhere. "auto" takes the one for the tensor's device.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.kernels import torch_scan
from hbll_seq.kernels.torch_scan import compose as compose
from hbll_seq.kernels.torch_scan import levels as levels

BACKENDS = ("auto", "torch", "numba", "triton")
_auto = "auto"  # the meaning of "auto"; see set_backend


def backends() -> list[str]:
    """Return the kernels that can run on this machine."""
    return ["torch", *(name for name in ("numba", "triton") if _devices(name))]


def set_backend(backend: str) -> None:
    """Choose the meaning of "auto" from now on, in this process.

    Args:
        backend: "torch", "numba" or "triton"; "auto" to choose by the tensor's device again.

    Raises:
        InputError: unknown, or not available on this machine.
    """
    global _auto
    if backend not in ("auto", *backends()):
        raise InputError("backend", repr(backend), f"one of {('auto', *backends())} on this machine")
    _auto = backend


@torch.no_grad()
def prefix_scan(a: Tensor, b: Tensor, h0: Tensor, *, backend: str = "auto") -> Tensor:
    """Return the boundaries of n affine maps applied one after the other.

    Args:
        a, b: `(n, ...)`, n >= 1, float32 or float64.
        h0: `(...)`, the value before the first map.
        backend: "auto", "torch", "numba" or "triton".

    Returns:
        `(n+1, ...)`, `h0` first; never part of a graph.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, an unknown or unavailable backend.
    """
    _check(a, b, h0, "h0")
    return _kernel(backend, a.device.type)(a, b, h0)


@torch.no_grad()
def reverse_scan(a: Tensor, b: Tensor, last: Tensor, *, backend: str = "auto") -> Tensor:
    """Scan from the end: `(n+1, ...)`, `last` last. See `prefix_scan`."""
    _check(a, b, last, "last")
    return _kernel(backend, a.device.type)(a, b, last, reverse=True)


@cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def runs_on(backend: str, device: str) -> bool:
    """Return whether "numba" or "triton" is installed and can run on tensors of a device type ("cpu", "cuda")."""
    return device in _devices(backend)


def _devices(name: str) -> tuple[str, ...]:
    """Return the device types on which a compiled kernel can run here."""
    if not _installed(name):
        return ()
    if name == "numba":
        return ("cpu",)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ("cpu", "cuda")
    return ("cuda",) if torch.cuda.is_available() else ()


def _kernel(backend: str, device: str) -> Callable[..., Tensor]:
    if backend not in BACKENDS:
        raise InputError("backend", repr(backend), f"one of {BACKENDS}")
    name = _auto if backend == "auto" else backend
    if name == "auto":
        name = {"cpu": "numba", "cuda": "triton"}.get(device, "torch")
        name = name if device in _devices(name) else "torch"
    if name == "torch":
        return torch_scan.affine_scan
    if device not in _devices(name):
        runs = " or ".join(_devices(name)) or "no device of this machine"
        raise InputError(
            "backend", f"{name!r} for tensors on {device}", f"{name} runs on {runs}; 'torch' runs anywhere"
        )
    # imported at the first scan: numba takes a second to load, and triton may be missing
    if name == "numba":
        from hbll_seq.kernels import numba_scan

        return numba_scan.affine_scan
    from hbll_seq.kernels import triton_scan

    return triton_scan.affine_scan


def _check(a: Tensor, b: Tensor, h: Tensor, name: str) -> None:
    for argument, value in (("a", a), ("b", b), (name, h)):
        if not isinstance(value, Tensor):
            raise InputError(argument, type(value).__name__, "a tensor")
    if a.ndim < 1 or a.shape[0] < 1:
        raise InputError("a", f"shape {tuple(a.shape)}", "(n, ...) with n >= 1")
    if b.shape != a.shape:
        raise InputError("b", f"shape {tuple(b.shape)}", f"the shape of a, {tuple(a.shape)}")
    if h.shape != a.shape[1:]:
        raise InputError(name, f"shape {tuple(h.shape)}", f"the shape of one row of a, {tuple(a.shape[1:])}")
    if a.dtype not in (torch.float32, torch.float64) or not a.dtype == b.dtype == h.dtype:
        raise InputError("a", f"dtypes {a.dtype}, {b.dtype}, {h.dtype}", "float32 or float64, the same for all")
    if not a.device == b.device == h.device:
        raise InputError("a", f"devices {a.device}, {b.device}, {h.device}", "the same device for all")
