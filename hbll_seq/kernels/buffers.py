"""Large work buffers, kept between training steps.

A fresh allocation of tens of megabytes costs a page fault per 4 KiB on first touch, which is more
than the arithmetic that fills it. Buffers are handed out by size (`take`) and come back when their user says so
(`give`, or `Borrower.release` for all that a roll has); at most `KEPT` wait here, the oldest go first. A buffer that
nobody gives back is freed by Python as any tensor is: nothing goes wrong, and the next one is allocated anew.
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


_here = _Here()  # of each thread: what one records must not keep another from sharing


@contextmanager
def private() -> Iterator[None]:
    """Inside it buffers are new and none come back: what is recorded (`graphs`) must not share memory with anyone."""
    before, _here.shared = _here.shared, False
    try:
        yield
    finally:
        _here.shared = before


def take(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor of `shape`, dtype and device of `like`; waiting buffers up to twice the size will do."""
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
    """Hand a buffer from `take`, or any large tensor of one's own, back; the caller must not touch it again.

    Raises:
        RuntimeError: it was given already; two users would write to the same memory.
    """
    if not _here.shared or buffer.is_inference():  # one made in inference mode is of no use to training
        return
    base = buffer._base if buffer._base is not None else buffer
    place = base.data_ptr()
    if not place:  # no memory is behind it
        return
    with _lock:
        if any(one.data_ptr() == place for one in _waiting):
            raise RuntimeError("a work buffer was given back twice")
        _waiting.append(base.view(-1))
        del _waiting[:-KEPT]


class Borrower:
    """Has work buffers on loan, and gives them back once: by `release`, or at the end of a `with` block.

    Nothing of it can be used after that (`RuntimeError`), and what views its buffers belongs to others. Whoever makes
    one releases it when done; without that its buffers are freed as ordinary memory.
    """

    def __init__(self) -> None:
        self._borrowed: list[Tensor] = []

    def borrow(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """As `take`, until the release."""
        buffer = take(shape, like)
        if _here.shared:  # else it stays with its owner for good
            self._borrowed.append(buffer)
        return buffer

    def own(self, buffer: Tensor) -> Tensor:
        """`buffer`, which was taken or made for this one and goes back with the others."""
        if _here.shared:
            self._borrowed.append(buffer)
        return buffer

    def give_back(self, buffer: Tensor) -> None:
        """One that was borrowed, ahead of the others."""
        for i, one in enumerate(self._borrowed):
            if one is buffer:
                del self._borrowed[i]
                give(one)
                return

    @property
    def released(self) -> bool:
        """Whether it was."""
        return "_released" in vars(self)

    def release(self) -> None:
        """Give everything back; once is enough, more changes nothing."""
        borrowed = vars(self).get("_borrowed", [])
        vars(self).clear()  # every use from now on is one of an attribute that is not there
        vars(self)["_released"] = True
        for buffer in borrowed:
            give(buffer)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release, whether there was an error or not."""
        self.release()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Only asked for what is not there."""
            if self.released and not name.startswith("__"):
                raise RuntimeError(f"{type(self).__name__}.{name}: it was released, its work buffers are others' now")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


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
