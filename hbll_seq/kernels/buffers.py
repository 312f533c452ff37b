"""Large work buffers, kept between training steps.

A fresh allocation of tens of megabytes costs a page fault per 4 KiB on first touch, which is more
than the arithmetic that fills it. Buffers are handed out by size and come back when their user is
done; at most `KEPT` wait here, the oldest go first.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

KEPT = 16
_waiting: list[Tensor] = []
_shared = True
_lock = threading.RLock()  # a buffer may come back from a destructor while another one is looked for


@contextmanager
def private() -> Iterator[None]:
    """Inside it buffers are new and none come back: what is recorded (`graphs`) must not share memory with anyone."""
    global _shared
    before, _shared = _shared, False
    try:
        yield
    finally:
        _shared = before


def take(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor of `shape`, dtype and device of `like`."""
    size = 1
    for s in shape:
        size *= s
    with _lock:
        for flat in tuple(_waiting) if _shared else ():
            if flat.dtype == like.dtype and flat.device == like.device and size <= flat.numel() <= 2 * size:
                _waiting[:] = [one for one in _waiting if one is not flat]
                return flat[:size].view(shape)
    return torch.empty(size, dtype=like.dtype, device=like.device).view(shape)


def give(buffer: Tensor) -> None:
    """Hand a buffer from `take` back; the caller must not touch it again."""
    if not _shared or buffer.is_inference():  # one made in inference mode is of no use to training
        return
    base = buffer._base if buffer._base is not None else buffer
    with _lock:
        _waiting.append(base.view(-1))
        del _waiting[:-KEPT]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x W^T + b` `(..., P)` without gradient, in a buffer."""
    flat = x.detach().reshape(-1, x.shape[-1])
    out = take((flat.shape[0], weight.shape[0]), flat)
    with torch.no_grad():
        if bias is None:
            torch.mm(flat, weight.t(), out=out)
        else:
            torch.addmm(bias, flat, weight.t(), out=out)
    return out.view(*x.shape[:-1], weight.shape[0])
