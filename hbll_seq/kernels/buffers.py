"""Large work buffers, kept between updates.

A fresh allocation of tens of megabytes costs a page fault per 4 KiB on first touch, more than the arithmetic that fills
it. `take` hands out buffers by size. `give` returns one, and `Borrower.release` returns all of a roll. At most `KEPT`
wait here; the oldest are dropped first. Python frees a buffer that is never returned like any tensor: nothing goes
wrong, and the next one is allocated anew.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

KEPT = 16
_waiting: list[Tensor] = []
_lock = threading.Lock()


class _Here(threading.local):
    shared = True


_here = _Here()  # per thread: one thread's recording must not stop another from sharing


@contextmanager
def private() -> Iterator[None]:
    """Enter a context of new buffers, none of which come back: a recording (`graphs`) must not share its memory."""
    before, _here.shared = _here.shared, False
    try:
        yield
    finally:
        _here.shared = before


def take(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an uninitialised tensor of `shape`, dtype and device of `like`; a waiting buffer of up to twice the size
    will do.
    """
    size = 1
    for s in shape:
        size *= s
    if _here.shared:
        with _lock:
            fitting = [
                (flat.numel(), i)
                for i, flat in enumerate(_waiting)
                if flat.dtype == like.dtype and flat.device == like.device and size <= flat.numel() <= 2 * size
            ]
            if fitting:  # the smallest, so that no larger one is missed later
                return _waiting.pop(min(fitting)[1])[:size].view(shape)
    return _allocate(size, like).view(shape)


def _allocate(size: int, like: Tensor) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device)


def give(buffer: Tensor) -> None:
    """Give back a buffer from `take`, or any large tensor that the caller owns and no longer uses.

    Raises:
        RuntimeError: it is already back; two users would write to the same memory.
    """
    if not _here.shared or buffer.is_inference():  # training cannot use tensors made in inference mode
        return
    base = buffer._base if buffer._base is not None else buffer
    place = base.data_ptr()
    if not place:  # a tensor without memory
        return
    with _lock:
        if any(one.data_ptr() == place for one in _waiting):
            raise RuntimeError("a work buffer was given back twice")
        _waiting.append(base.view(-1))
        del _waiting[:-KEPT]


class Borrower:
    """An owner of borrowed work buffers, which gives them back once: by `release`, or at the end of a `with` block.

    After that any use is a `RuntimeError`, and views of its buffers belong to others. The maker of a borrower must
    release it; otherwise its buffers are freed as ordinary memory.
    """

    def __init__(self) -> None:
        self._borrowed: list[Tensor] = []

    def borrow(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Take a buffer until the release."""
        buffer = take(shape, like)
        if _here.shared:  # else its owner keeps it for good
            self._borrowed.append(buffer)
        return buffer

    def own(self, buffer: Tensor) -> Tensor:
        """Add `buffer` to those that the release gives back; return it."""
        if _here.shared:
            self._borrowed.append(buffer)
        return buffer

    def give_back(self, buffer: Tensor) -> None:
        """Give back one buffer before the others."""
        for i, one in enumerate(self._borrowed):
            if one is buffer:
                del self._borrowed[i]
                give(one)
                return

    @property
    def released(self) -> bool:
        """Whether the buffers were given back."""
        return "_released" in vars(self)

    def release(self) -> None:
        """Give everything back; further calls change nothing."""
        borrowed = vars(self).get("_borrowed", [])
        vars(self).clear()  # from now on every use meets a missing attribute
        vars(self)["_released"] = True
        for buffer in borrowed:
            give(buffer)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release, also after an error."""
        self.release()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise an error for an attribute that is missing, in a released borrower a `RuntimeError`."""
            if self.released and not name.startswith("__"):
                raise RuntimeError(f"{type(self).__name__}.{name}: it was released, its work buffers are others' now")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x W^T + b` `(..., P)` without gradient, in a buffer."""
    flat = x.detach().reshape(-1, x.shape[-1])
    out = take((flat.shape[0], weight.shape[0]), flat)
    with torch.no_grad():
        if bias is None:
            torch.mm(flat, weight.t(), out=out)
        else:
            torch.addmm(bias, flat, weight.t(), out=out)
    return out.view(*x.shape[:-1], weight.shape[0])
