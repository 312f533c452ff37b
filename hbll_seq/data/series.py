"""Long sequences in memory or in a mapped file, read a window at a time: only windows are converted.

Values keep the type they came in: a text of bytes stays one byte a symbol, tokens of uint16 two, features of float16
two. An array is never copied, also where its memory is read-only (`np.memmap`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from hbll_seq.data.checks import check_dtype, check_shape, check_values
from hbll_seq.data.expected import Expected
from hbll_seq.data.tensors import alike, as_tensor, plain
from hbll_seq.errors import InputError

FORMS = "one long text or series, (T,) or (T, D), or a batch of equal lengths, (N, T) or (N, T, D), in memory"
READ = 4096  # time steps, over all sequences read at once, of a window whose size nothing depends on

Place = tuple[int, int]  # number of a sequence, and the time step at which a stream starts in it


@dataclass(frozen=True)
class Series:
    """N sequences of T time steps.

    Attributes:
        x: `(N, T)` symbols or `(N, T, D)` features, as they came.
        single: whether they came as one sequence without a batch axis.
        model: the model that reads them.
    """

    x: Tensor
    single: bool
    model: Expected

    def take(self, places: Sequence[Place], first: int, width: int) -> Tensor:
        """Return a window of several streams `(B, width)` or `(B, width, D)`: int64, or the model's dtype.

        Args:
            places: starts of the streams.
            first: first time step of the window, counted from the start of a stream.
            width: time steps.

        Raises:
            InputError: values that the model cannot read; positions count from the start of the window.
        """
        x = check_dtype(gather(self.x, places, first, width, "x"), self.model)
        x = check_values(check_shape(x, None, self.model)[0], self.model)
        return x.to(torch.int64) if self.model.input_kind == "symbols" else x

    def windows(self, steps: int, batch_size: int, window: int | None) -> Iterator[tuple[list[Place], int, int]]:
        """Iterate over windows of whole sequences, `batch_size` sequences at a time.

        Args:
            steps: time steps to read of every sequence.
            batch_size: most sequences at a time.
            window: time steps of a window; the last may be shorter. None: `READ` over the number of sequences.

        Yields:
            Places, first time step, and time steps of the window; a sequence starts where the first time step is 0.
        """
        for i in range(0, len(self.x), batch_size):
            places = [(row, 0) for row in range(i, min(i + batch_size, len(self.x)))]
            width = window or max(1, READ // len(places))
            for first in range(0, steps, width):
                yield places, first, min(width, steps - first)


def as_series(x: Any, model: Expected) -> Series:
    """Return long sequences whose shape fits the model; `take` checks their values.

    Args:
        x: `FORMS`, as a tensor, an array, or a list of sequences of equal length.
        model: the model that reads them, of time steps.

    Raises:
        InputError: another form, unequal lengths, another shape.
    """
    if isinstance(x, DataLoader | Dataset | PackedSequence | tuple):
        came = "(x, lengths)" if type(x) is tuple else f"a {type(x).__name__}"
        raise InputError("x", f"{came}, with stateful=True", FORMS)
    if isinstance(x, list) and x and not np.isscalar(x[0]):
        data = _equal(x)
    else:
        data = keep_type(x, "x", FORMS)
    check_dtype(data[(slice(1),) * data.ndim], model)  # one value: only its type is looked at
    features, came = model.input_kind != "symbols", f"shape {tuple(data.shape)}"
    if features and model.input_size == 1 and (data.ndim == 1 or (data.ndim == 2 and data.shape[1] != 1)):
        data = data.unsqueeze(-1)  # one feature
    single = data.ndim == 1 + features
    if single:
        data = data.unsqueeze(0)
    if data.ndim != 2 + features or (features and data.shape[2] != model.input_size):
        raise InputError("x", came, _axes(model))
    return Series(data, single, model)


def _axes(model: Expected) -> str:
    end = "" if model.input_kind == "symbols" else f", {model.input_size}"
    return f"(T{end or ','}) or (N, T{end})"


def _equal(x: list[Any]) -> Tensor:
    """Stack sequences of one length."""
    parts = [as_tensor(one, f"x[{i}]") for i, one in enumerate(x)]
    for i, one in enumerate(parts):
        if one.shape != parts[0].shape:
            came = f"shape {tuple(one.shape)}, where x[0] has {tuple(parts[0].shape)}, with stateful=True"
            raise InputError(f"x[{i}]", came, "sequences of equal length")
    return torch.stack(alike(parts))


def keep_type(value: Any, name: str, expected: str) -> Tensor:
    """Return a tensor on the CPU that shares the memory of a tensor or array and has its type."""
    if isinstance(value, Tensor):
        return plain(value, name).detach().cpu()
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        numeric = value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 and value.dtype.isnative
        if numeric and all(step >= 0 for step in value.strides):
            return torch.from_numpy(np.asarray(_Shared(value)))
    return as_tensor(value, name, expected)


class _Shared:
    """The memory of an array, without its mark "read-only", of which torch would warn. Windows are copies, so that
    nothing writes to it.
    """

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array  # keeps the memory alive
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def gather(values: Tensor, places: Sequence[Place], first: int, width: int, name: str) -> Tensor:
    """Return the same window of several streams of `values` `(N, T, ...)` as a copy `(B, width, ...)`."""
    return torch.stack([as_tensor(values[row, start + first : start + first + width], name) for row, start in places])
