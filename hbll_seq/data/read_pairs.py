"""A source of batches for a module of the user's, from every form of x and y.

x: a tensor or array `(N, ...)`; a list of arrays `(T_i, ...)`, padded; `(x, lengths)`; a `PackedSequence`; a `Dataset`
or `DataLoader` of `(x, y)`, `(x, y, lengths)`, `(x, y, lengths, target_lengths)` or `((x, lengths), y)`. Time is the
second axis. Floats are cast to the module's dtype, whole numbers to int64.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hbll_seq.data.batch import Batch
from hbll_seq.data.checks import check_lengths
from hbll_seq.data.inputs import FORMS
from hbll_seq.data.pairs import Pairs
from hbll_seq.data.read_targets import Kind, read_targets
from hbll_seq.data.scalars import LARGEST, integer
from hbll_seq.data.sources import Loader, Padded
from hbll_seq.data.tensors import alike, as_tensor
from hbll_seq.errors import InputError

ITEMS = "(x, y), (x, y, lengths), (x, y, lengths, target_lengths) or ((x, lengths), y)"


class Reading(NamedTuple):
    """The way a module and its loss read data.

    Attributes:
        kind: of the targets.
        dtype: of values.
        check: refuses targets; called for every batch of a DataLoader.
    """

    kind: Kind
    dtype: torch.dtype
    check: Callable[[Pairs], None] | None = None


def read_pairs(
    x: Any, y: Any, reading: Reading, *, mask: Any = None, ignore_index: int = -100, weight: Any = None
) -> Pairs | Loader:
    """Return a source of batches.

    Args:
        x, y: see the module and `read_targets`.
        reading: see there.
        mask: bool, `(N, L)` for targets `(N, L, ...)`: which ones count.
        ignore_index: label of targets that do not count.
        weight: `(N,)` weights of the sequences.

    Raises:
        InputError: names the argument, the value given and the value expected.
    """
    ignore_index = integer("ignore_index", ignore_index, least=-LARGEST)
    if isinstance(x, DataLoader):
        for name, value in (("y", y), ("mask", mask), ("sample_weight", weight)):
            if value is not None:
                raise InputError(name, "given beside a DataLoader", f"a loader that yields {ITEMS}")

        def convert(item: Any) -> Batch:
            found = make_pairs(*_parts(item), reading, None, ignore_index, None)
            if reading.check is not None:
                reading.check(found)
            return found.whole()

        return Loader(x, convert)
    if isinstance(x, Dataset):
        if y is not None:
            raise InputError("y", "targets beside a Dataset", "a dataset that yields (x, y)")
        x, y = _read(x, reading)
    found = make_pairs(x, y, reading, mask, ignore_index, weight)
    if found.mask is not None and not found.mask.any():
        raise InputError("y", "no target that counts", "at least one that is not ignored, masked or padding")
    return found


def make_pairs(x: Any, y: Any, reading: Reading, mask: Any, ignore_index: int, weight: Any) -> Pairs:
    """Return the data in memory."""
    x, lengths = read_inputs(x, reading.dtype)
    return join(x, lengths, y, reading, mask, ignore_index, weight)


def join(
    x: Tensor, lengths: Tensor | None, y: Any, reading: Reading, mask: Any, ignore_index: int, weight: Any
) -> Pairs:
    """Return checked inputs and their targets; `lengths` is None if no sequence is padded."""
    n = len(x)
    targets = read_targets(y, n, reading.kind, reading.dtype, ignore_index)
    full = x.shape[1] if x.ndim > 1 else 1
    unequal = lengths is not None and int(lengths.min()) < full
    steps = lengths if lengths is not None else torch.full((n,), full)
    shares = reading.kind == "labels" and targets.y.is_floating_point()  # (N, V), or (N, T, V)
    per_step = reading.kind != "sequences" and targets.y.ndim > 1 + shares and targets.y.shape[1] == full and x.ndim > 1
    counted, own = targets.mask, targets.lengths
    if own is not None and lengths is not None and per_step and torch.equal(own, steps):
        own = None  # one target a step
    aligned = per_step and own is None
    if aligned and unequal and reading.kind != "any":
        valid = torch.arange(full)[None] < steps[:, None]
        counted = valid if counted is None else counted & valid.view(*valid.shape, *[1] * (counted.ndim - 2))
    if mask is not None:
        counted = _masked(mask, targets.y, counted, reading.kind)
    return Pairs(x, steps, targets.y, counted, own, read_weight(weight, n, reading.dtype), unequal, aligned)


def read_inputs(x: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return x `(N, ...)` with zeros after each length, and lengths `(N,)`, or None where none are given."""
    x, lengths = _together(x)
    if x.ndim == 0 or x.numel() == 0:
        raise InputError("x", f"shape {tuple(x.shape)}", "at least one sequence of at least one step")
    if lengths is not None:
        if x.ndim < 2:
            raise InputError("x", f"shape {tuple(x.shape)} beside lengths", "(N, T, ...): time is the second axis")
        lengths = check_lengths(lengths, len(x), x.shape[1])
        after = torch.arange(x.shape[1])[None] >= lengths[:, None]
        if bool(after.any()):
            x = x.masked_fill(after.view(*after.shape, *[1] * (x.ndim - 2)), 0)
    if x.is_floating_point():
        x = x.to(dtype)
        low, high = (float(v) for v in x.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            at = (~torch.isfinite(x)).nonzero()[0].tolist()
            raise InputError("x", f"NaN or infinity at {at}", f"finite numbers in {dtype}")
    return (x if x.is_floating_point() or x.dtype == torch.bool else x.to(torch.int64)), lengths


def _together(x: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(x, PackedSequence):  # a named tuple: tested before tuple
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        return as_tensor(padded, "x"), lengths.cpu()
    if isinstance(x, tuple):
        if len(x) != 2:
            raise InputError("x", f"a tuple of {len(x)}", "a list of sequences, or (x, lengths)")
        return as_tensor(x[0], "x", FORMS), as_tensor(x[1], "lengths", "integers, one a sequence")
    if isinstance(x, list) and x and not isinstance(x[0], numbers.Number):
        parts = alike([as_tensor(one, f"x[{i}]") for i, one in enumerate(x)])
        for i, one in enumerate(parts):
            if one.ndim != parts[0].ndim or one.shape[1:] != parts[0].shape[1:]:
                raise InputError(f"x[{i}]", f"shape {tuple(one.shape)}", f"(T_i, ...) like x[0], {(*parts[0].shape,)}")
            if one.numel() == 0:
                raise InputError(f"x[{i}]", "an empty sequence", "T_i >= 1")
        if parts[0].ndim == 0 or len({len(one) for one in parts}) == 1:
            return torch.stack(parts), None
        return pad_sequence(parts, batch_first=True), torch.tensor([len(one) for one in parts])
    return as_tensor(x, "x", FORMS), None


def _parts(item: Any) -> tuple[Any, Any]:
    """Return x and y of one item of a loader or dataset, with their lengths where it has them."""
    if not isinstance(item, list | tuple) or isinstance(item, PackedSequence) or len(item) not in (2, 3, 4):
        came = f"{len(item)} things" if isinstance(item, list | tuple) else f"a {type(item).__name__}"
        raise InputError("x", f"data that yield {came}", ITEMS)
    x, y = item[0], item[1]
    if isinstance(x, list | tuple) and not isinstance(x, PackedSequence) and len(x) == 2 and len(item) == 2:
        if getattr(x[0], "ndim", 0) > getattr(x[1], "ndim", 0):
            x = tuple(x)
    if len(item) > 2:
        x = (x, item[2])
    if len(item) > 3:
        y = (y, item[3])
    return x, y


def _read(data: Dataset[Any], reading: Reading) -> tuple[list[Tensor], list[Tensor]]:
    """Read every item of a Dataset, each without its padding."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError("x", "a Dataset without a length or items", "a Dataset with both, or a DataLoader around it")
    if not len(data):
        raise InputError("x", "an empty Dataset", "at least one sequence")
    xs, ys = [], []
    for i in range(len(data)):
        x, y = _parts(data[i])
        steps = None
        if isinstance(x, tuple):
            x, steps = as_tensor(x[0], f"x[{i}]"), int(as_tensor(x[1], "lengths"))
        if isinstance(y, tuple) and len(data[i]) > 3:
            y = as_tensor(y[0], f"y[{i}]")[: int(as_tensor(y[1], "target_lengths"))]
        x, y = as_tensor(x, f"x[{i}]"), as_tensor(y, f"y[{i}]")
        if steps is not None:
            if x.ndim == 0 or not 1 <= steps <= len(x):
                raise InputError("lengths", f"{steps} for sequence {i}", f"values in 1..{len(x) if x.ndim else 1}")
            if reading.kind != "sequences" and y.ndim and len(y) == len(x):
                y = y[:steps]  # padded like x
            x = x[:steps]
        xs.append(x)
        ys.append(y)
    return xs, ys


def _masked(mask: Any, y: Tensor, counted: Tensor | None, kind: Kind) -> Tensor:
    """Return the targets that count."""
    mask = as_tensor(mask, "mask")
    if kind in ("sequences", "any"):
        raise InputError("mask", "given", "None: this loss reads all targets; give it those that count")
    if mask.dtype != torch.bool or mask.ndim > y.ndim or mask.shape != y.shape[: mask.ndim]:
        raise InputError("mask", f"shape {tuple(mask.shape)} of {mask.dtype}", f"bool, {tuple(y.shape[:2])}")
    if counted is None:
        return mask
    deep = max(mask.ndim, counted.ndim)
    mask, counted = (one.view(*one.shape, *[1] * (deep - one.ndim)) for one in (mask, counted))
    return mask & counted


def read_weight(weight: Any, n: int, dtype: torch.dtype) -> Tensor | None:
    """Return `(n,)` weights of sequences, finite and not negative."""
    if weight is None:
        return None
    found = as_tensor(weight, "sample_weight").to(dtype)
    if found.shape != (n,):
        raise InputError("sample_weight", f"shape {tuple(found.shape)}", f"({n},), one a sequence")
    if not bool(torch.isfinite(found).all()) or bool((found < 0).any()) or not bool(found.any()):
        raise InputError("sample_weight", "numbers below 0, not finite, or all 0", "finite numbers >= 0, some above")
    return found


def join_weight(found: Padded, weight: Any, dtype: torch.dtype) -> Pairs:
    """Return the same data with a weight for every sequence."""
    weights, unequal = read_weight(weight, len(found.x), dtype), int(found.lengths.min()) < found.x.shape[1]
    aligned = found.mask is not None
    return Pairs(found.x, found.lengths, found.y, found.mask, None, weights, unequal, aligned, renew=found.renew)
