"""A `Source` of batches from every form of input, checked before any work starts.

Accepted as x: a tensor or NumPy array `(N, T)` of symbols or `(N, T, D)` of features; one unbatched sequence;
a list of sequences of different lengths; `(x, lengths)`; a `PackedSequence`; a `Dataset` (read once) or a
`DataLoader` (read anew each epoch) that yield x, `(x, y)` or `(x, y, lengths)`. Models of sound take lists of waves
`(samples,)`, too. Next-step models also take one long
1-D text, cut into windows. Values after a sequence's length are ignored.
Models of arrays (images, vectors) take `(N, ...)` with one target each, in the same containers.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hbll_seq.data.batch import Batch
from hbll_seq.data.checks import check_dtype, check_shape, check_values
from hbll_seq.data.expected import Expected
from hbll_seq.data.scalars import LARGEST, integer
from hbll_seq.data.sources import Loader, LongText, Padded
from hbll_seq.data.targets import check_targets
from hbll_seq.data.tensors import alike, as_tensor
from hbll_seq.errors import InputError

FORMS = "a tensor, array, list, (x, lengths), PackedSequence, Dataset or DataLoader"


def as_source(
    x: Any, y: Any, model: Expected, *, mask: Any = None, window: int | None = None, ignore_index: int = -100
) -> Padded | LongText | Loader:
    """Check and normalise x and y. See the module docstring for the forms of x, `targets.py` for those of y.

    Raises:
        InputError: names the argument, the value given and the value expected.
    """
    window, ignore_index = text_window(window, model), integer("ignore_index", ignore_index, least=-LARGEST)
    if isinstance(x, DataLoader):
        if y is not None or mask is not None:
            raise InputError("y", "targets beside a DataLoader", "a loader that yields (x, y)")
        return Loader(x, lambda item: _loaded(item, model, ignore_index))
    if isinstance(x, Dataset):
        if y is not None:
            raise InputError("y", "targets beside a Dataset", "a dataset that yields (x, y)")
        x, y = _read(x, model)
    x, lengths = _together(x, model)
    if model.task == "next" and model.input_kind == "symbols" and x.ndim == 1 and lengths is None:
        if y is not None or mask is not None:
            raise InputError(
                "y" if y is not None else "mask",
                "given",
                "None for one long text: the next symbol is the target",
            )
        return LongText(check_values(check_dtype(x, model), model), window)
    x, lengths = _checked(x, lengths, model)
    return Padded(*check_targets(x, lengths, y, mask, model, ignore_index))


def is_text(x: Any, model: Expected) -> bool:
    """Return whether x is one long text: one axis of symbols, for a next-step model."""
    if model.task != "next" or model.input_kind != "symbols":
        return False
    if isinstance(x, list):
        return bool(x) and isinstance(x[0], numbers.Number)
    return getattr(x, "ndim", None) == 1


def text_window(window: Any, model: Expected) -> int:
    """Return the time steps per window of a long text: `window`, or 256, or the model's context if that is less."""
    if window is None:
        return min(256, model.context or 256)
    steps = integer("window", window, extra=", or None")
    if model.context is not None and steps > model.context:
        raise InputError("window", steps, f"at most the model's context, {model.context}")
    return steps


def as_sequences(
    x: Any, model: Expected, y: Any = None, *, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Any]:
    """Return x padded, `(N, T)` or `(N, T, D)`, lengths `(N,)`, and y (unchanged, or from the Dataset).

    Args:
        x: sequences in memory.
        model: the model that reads x.
        y: targets, returned unchanged; None with a Dataset.
        dtype: dtype of features; None for the model's.

    Raises:
        InputError: names the value given and the value expected.
    """
    if isinstance(x, DataLoader):
        raise InputError("x", "a DataLoader", "sequences in memory, or one call a batch")
    if isinstance(x, Dataset):
        if y is not None:
            raise InputError("y", "targets beside a Dataset", "a dataset that yields (x, y)")
        x, y = _read(x, model)
    return *_checked(*_together(x, model), model, dtype), y


def _loaded(item: Any, model: Expected, ignore_index: int) -> Batch:
    """Return the `Batch` for one item of a DataLoader."""
    x, y = item, None
    if isinstance(item, list | tuple) and not isinstance(item, PackedSequence):
        if len(item) not in (1, 2, 3):
            raise InputError("x", f"a loader that yields {len(item)} things", "x, (x, y) or (x, y, lengths)")
        x, y = item[0], item[1] if len(item) > 1 else None
        x = (x, item[2]) if len(item) == 3 else x
    x, lengths = _checked(*_together(x, model), model)
    return Batch(*check_targets(x, lengths, y, None, model, ignore_index, some=False))


def _read(data: Dataset[Any], model: Expected) -> tuple[list[Tensor], list[Tensor] | None]:
    """Read every item of a Dataset: a list of x, and a list of y if it yields any."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError("x", "a Dataset without a length or items", "a Dataset with both, or a DataLoader around it")
    items = [data[i] for i in range(len(data))]
    if not items:
        raise InputError("x", "an empty Dataset", "at least one sequence")
    if not isinstance(items[0], list | tuple):
        return [as_tensor(one, f"x[{i}]") for i, one in enumerate(items)], None
    xs, ys = [], []
    for i, item in enumerate(items):
        if not isinstance(item, list | tuple) or len(item) not in (1, 2, 3) or len(item) != len(items[0]):
            came = f"{len(item)} parts" if isinstance(item, list | tuple) else f"the type {type(item).__name__}"
            raise InputError("x", f"a Dataset whose item {i} has {came}", "x, (x, y) or (x, y, lengths)")
        one = as_tensor(item[0], f"x[{i}]")
        target = as_tensor(item[1], f"y[{i}]") if len(item) > 1 else None
        if len(item) == 3:
            one, target = _cut(one, target, item[2], i, model)
        xs.append(one)
        ys.append(target)
    return xs, None if ys[0] is None else [t for t in ys if t is not None]


def _cut(x: Tensor, y: Tensor | None, length: Any, i: int, model: Expected) -> tuple[Tensor, Tensor | None]:
    """Return item i of a Dataset without its padding."""
    steps = as_tensor(length, "lengths")
    if x.ndim == 0 or steps.numel() != 1 or steps.is_floating_point() or steps.dtype == torch.bool:
        raise InputError("lengths", f"{length!r} for sequence {i}", "an integer, the sequence's steps")
    full, n = len(x), int(steps)
    if not 1 <= n <= full:
        raise InputError("lengths", f"{n} for sequence {i}", f"values in 1..{full}")
    if y is not None and model.task == "step" and y.ndim and len(y) == full:
        y = y[:n]  # padded like x
    return x[:n], y


def _together(x: Any, model: Expected) -> tuple[Tensor, Tensor | None]:
    """Return one tensor, and lengths where they are known."""
    x = model.prepared(x)
    if isinstance(x, PackedSequence):  # a named tuple: tested before tuple
        try:
            padded, lengths = pad_packed_sequence(x, batch_first=True)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError("x", f"a PackedSequence that cannot be unpacked ({error})", FORMS) from error
        return as_tensor(padded, "x"), lengths.cpu()
    if isinstance(x, tuple):
        if len(x) != 2:
            raise InputError("x", f"a tuple of {len(x)}", "(x, lengths)")
        return as_tensor(x[0], "x", FORMS), as_tensor(x[1], "lengths", "integers, one a sequence")
    if isinstance(x, list):
        if not x:
            raise InputError("x", "an empty list", "at least one sequence")
        if not all(isinstance(one, numbers.Number) for one in x):
            return _stacked(x, model.input_shape) if model.input_kind == "array" else _side_by_side(x)
    return as_tensor(x, "x", FORMS), None


def _stacked(x: Sequence[Any], shape: tuple[int, ...]) -> tuple[Tensor, None]:
    """Stack a list of arrays of one shape."""
    parts = [as_tensor(one, f"x[{i}]") for i, one in enumerate(x)]
    for i, one in enumerate(parts):
        if one.shape != shape:
            raise InputError(f"x[{i}]", f"shape {tuple(one.shape)}", f"{shape}")
    return torch.stack(alike(parts)), None


def _side_by_side(x: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Pad a list of sequences."""
    parts = [as_tensor(one, f"x[{i}]") for i, one in enumerate(x)]
    for i, one in enumerate(parts):
        if one.ndim not in (1, 2) or one.ndim != parts[0].ndim or one.shape[1:] != parts[0].shape[1:]:
            raise InputError(
                f"x[{i}]",
                f"shape {tuple(one.shape)}",
                f"(T_i,) or (T_i, D) like x[0], {tuple(parts[0].shape)}",
            )
        if len(one) == 0:
            raise InputError(f"x[{i}]", "an empty sequence", "T_i >= 1")
    return pad_sequence(alike(parts), batch_first=True), torch.tensor([len(one) for one in parts])


def _checked(
    x: Tensor, lengths: Tensor | None, model: Expected, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    x, lengths = check_shape(check_dtype(x, model, dtype), lengths, model)
    if int(lengths.min()) < x.shape[1]:
        after = torch.arange(x.shape[1])[None] >= lengths[:, None]  # (N, T)
        # filled before the values are checked, and not multiplied by 0: padding may be NaN or -1
        x = x.masked_fill(after if x.ndim == 2 else after.unsqueeze(-1), 0)
    x = check_values(x, model)
    return x.to(torch.int64) if model.input_kind == "symbols" else x, lengths
