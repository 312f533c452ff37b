"""`open_span`: one long sequence in a file, of which every rank maps its own span and reads no more than that.

Files of tokens hold integers, one a time step; files of features hold D numbers a time step, one time step after the
other. `.npy` files know type and shape; of other files the caller says them. Values keep their type. They are read from
the disk when they are looked at, and `windows` reads the next window while the current one is used.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.data.series import keep_type
from hbll_seq.errors import InputError

NPY = b"\x93NUMPY"  # the first bytes of a .npy file


@dataclass(frozen=True)
class OpenSpan:
    """A span of a sequence in a file.

    Attributes:
        values: `(T_r,)` tokens or `(T_r, D)` features on the CPU, mapped from the file; with `ahead`, so many time
            steps of the next span follow.
        first, stop: first time step of the span in the whole sequence, and the one after its last.
        steps: time steps of the whole sequence, T.
        ahead: time steps after the span that are also mapped, as targets.
        whole: `(T,)` or `(T, D)` the whole sequence, mapped. It takes no memory until it is looked at; `fit` reads this
            rank's share of every window from it, `evaluate` and `predict` read all of it.
    """

    values: Tensor
    first: int
    stop: int
    steps: int
    ahead: int
    whole: Tensor

    def windows(self, window: int) -> Iterator[Tensor]:
        """Iterate over windows of `window` time steps in order, with `ahead` more each; the last may be shorter.

        Copies in memory; the next one is read in another thread.
        """
        window, own = integer("window", window), self.stop - self.first
        starts = range(0, own, window)

        def read(first: int) -> Tensor:
            return self.values[first : min(first + window, own) + self.ahead].clone()

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(read, 0)
            for first in starts:
                now = coming.result()
                if first + window < own:
                    coming = pool.submit(read, first + window)
                yield now


def open_span(
    path: str | os.PathLike[str], rank: int = 0, ranks: int = 1, *, dtype: Any = None, features: int | None = None,
    ahead: int = 0, multiple: int = 1,
) -> OpenSpan:  # fmt: skip
    """Map this rank's span of a sequence in a file.

    Args:
        path: a `.npy` file `(T,)` or `(T, D)`, or a file of bare numbers.
        rank: number of the span, from 0.
        ranks: number of spans; they differ by at most `multiple` time steps but for the last, which may be shorter.
        dtype: NumPy type of bare numbers, such as "uint16"; None for a `.npy` file, which knows its own.
        features: D of bare numbers; None for tokens, one number a time step, and for a `.npy` file.
        ahead: time steps after the span to map as well: 1 for next-step targets.
        multiple: spans start at multiples of so many time steps.

    Raises:
        InputError: no such file, not whole time steps, or fewer time steps than spans; type or features of a `.npy`
            file.
    """
    ranks = integer("ranks", ranks)
    rank = integer("rank", rank, 0, most=ranks - 1)
    ahead, multiple = integer("ahead", ahead, least=0), integer("multiple", multiple)
    values = _mapped(path, dtype, features)
    inputs = len(values) - ahead  # time steps that have their targets in the file
    units = -(-inputs // multiple)
    if inputs < 1 or units < ranks:
        came = f"{len(values)} time steps for {ranks} spans at multiples of {multiple}"
        raise InputError("path", came, "a longer sequence, or fewer spans")
    first, stop = (min(units * i // ranks * multiple, inputs) for i in (rank, rank + 1))
    whole = keep_type(values, "path", "numbers")
    return OpenSpan(whole[first : stop + ahead], first, stop, len(values), ahead, whole)


def _mapped(path: str | os.PathLike[str], dtype: Any, features: int | None) -> np.ndarray[Any, Any]:
    """Return the whole sequence `(T,)` or `(T, D)`, mapped."""
    if not os.path.isfile(path):
        raise InputError("path", repr(os.fspath(path)), "a file")
    with open(path, "rb") as file:
        knows = file.read(len(NPY)) == NPY
    for name, given in (("dtype", dtype), ("features", features)):
        if knows and given is not None:
            raise InputError(name, f"{given!r} for a .npy file", "None: the file says what it holds")
    if dtype is None:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError("dtype", f"None, and {os.fspath(path)!r} is no .npy file", "its NumPy type") from error
        if not isinstance(found, np.ndarray) or found.ndim not in (1, 2):
            raise InputError("path", f"an array of shape {getattr(found, 'shape', '?')}", "(T,) or (T, D)")
        return found
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise InputError("dtype", repr(dtype), 'a NumPy type, such as "uint16"') from error
    width = 1 if features is None else integer("features", features)
    size = os.path.getsize(path)
    if size == 0 or size % (kind.itemsize * width):
        raise InputError("path", f"{size} bytes", f"whole time steps of {kind.itemsize * width} bytes")
    numbers: np.ndarray[Any, Any] = np.memmap(path, kind, "r")
    return numbers if features is None else numbers.reshape(-1, width)
