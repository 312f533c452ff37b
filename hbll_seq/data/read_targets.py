"""Targets in the forms that losses of the user's read: labels, values, label sequences of any length, or anything."""

import numbers
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hbll_seq.data.tensors import alike, as_tensor
from hbll_seq.errors import InputError

# "labels": classes, or shares of classes; "values": numbers; "sequences": labels in order, of any number; "any"
Kind = Literal["labels", "values", "sequences", "any"]


class Targets(NamedTuple):
    """Targets of all sequences.

    Attributes:
        y: `(N, ...)`, padded.
        lengths: `(N,)` targets of each sequence, or None where all have the same number.
        mask: `(N, L)` or `(N,)` bool, or None if all count.
    """

    y: Tensor
    lengths: Tensor | None
    mask: Tensor | None


def read_targets(y: Any, n: int, kind: Kind, dtype: torch.dtype, ignore_index: int) -> Targets:
    """Return the targets of n sequences.

    Floats are cast to `dtype`, whole numbers to int64. Lists of unequal lengths are padded: whole numbers by
    `ignore_index` (label sequences by 0), other numbers by 0.

    Args:
        y: an array `(N, ...)`, a list of arrays, or `(y, target_lengths)` for label sequences.
        n: sequences of x.
        kind: see `Kind`.
        dtype: dtype of values.
        ignore_index: label of targets that do not count.

    Raises:
        InputError: names the argument, the value given and the value expected.
    """
    if y is None:
        raise InputError("y", "None", "targets: the loss compares them with the outputs")
    lengths = None
    if isinstance(y, tuple) and len(y) == 2 and kind in ("sequences", "any") and getattr(y[0], "ndim", 0) >= 2:
        y, lengths = y[0], _lengths(as_tensor(y[1], "target_lengths"), n)
    if (
        isinstance(y, tuple)
        and len({len(one) for one in y if hasattr(one, "__len__") and getattr(one, "ndim", True)}) > 1
    ):
        raise InputError("y", f"a tuple of {len(y)} of unequal lengths", "a list with one entry a sequence")
    if isinstance(y, list) and y and not isinstance(y[0], numbers.Number):
        target, lengths = _side_by_side(y, n, kind, ignore_index)
    else:
        target = as_tensor(y, "y")
    if target.ndim == 0 or len(target) != n:
        raise InputError("y", f"shape {tuple(target.shape)}", f"({n}, ...): one a sequence of x")
    target = _typed(target, kind, dtype)
    if lengths is not None and int(lengths.max()) > target.shape[1]:
        raise InputError("target_lengths", f"{int(lengths.max())}", f"at most {target.shape[1]}, the width of y")
    if kind == "sequences":
        return Targets(*_sequences(target, lengths, ignore_index), None)
    mask = None if lengths is None or kind == "any" else torch.arange(target.shape[1])[None] < lengths[:, None]
    if kind == "labels" and not target.is_floating_point() and bool((ignored := target == ignore_index).any()):
        counted = ~ignored
        if mask is not None:
            counted = counted & mask.view(*mask.shape, *[1] * (counted.ndim - 2))
        mask = counted
    return Targets(target, lengths, mask)


def _side_by_side(y: list[Any], n: int, kind: Kind, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Stack targets of one shape, or pad those of different lengths."""
    if len(y) != n:
        raise InputError("y", f"a list of {len(y)}", f"{n}, one a sequence of x")
    empty = [isinstance(one, list | tuple) and not one for one in y]
    parts = [
        torch.zeros(0, dtype=torch.int64) if none else as_tensor(one, f"y[{i}]")
        for i, (one, none) in enumerate(zip(y, empty, strict=True))
    ]
    for i, one in enumerate(parts):
        if one.ndim != parts[0].ndim or one.shape[1:] != parts[0].shape[1:]:
            raise InputError(f"y[{i}]", f"shape {tuple(one.shape)}", f"like y[0], {tuple(parts[0].shape)}")
    parts = alike(parts)
    if kind != "sequences" and len({one.shape for one in parts}) == 1:
        return torch.stack(parts), None
    if parts[0].ndim == 0:
        raise InputError("y", "a list of numbers", "a list of label sequences")
    whole = not parts[0].is_floating_point() and kind != "sequences" and parts[0].dtype != torch.bool
    signed = [one.to(torch.int64) for one in parts] if whole else parts
    padded = pad_sequence(signed, batch_first=True, padding_value=float(ignore_index) if whole else 0.0)
    return padded, torch.tensor([len(one) for one in parts])


def _typed(y: Tensor, kind: Kind, dtype: torch.dtype) -> Tensor:
    if kind == "values" or y.is_floating_point():
        if kind == "sequences":
            raise InputError("y", f"dtype {y.dtype}", "integer labels")
        y = y.to(dtype)
        if kind != "any" and not torch.isfinite(y).all():
            raise InputError("y", "NaN or infinity", f"finite numbers in {dtype}")
        return y
    if y.dtype == torch.bool:
        if kind in ("labels", "sequences"):
            raise InputError("y", "dtype torch.bool", "integer labels")
        return y
    return y.to(torch.int64)


def _lengths(lengths: Tensor, n: int) -> Tensor:
    if lengths.shape != (n,) or lengths.is_floating_point() or lengths.dtype == torch.bool or bool((lengths < 0).any()):
        came = f"shape {tuple(lengths.shape)} of {lengths.dtype}"
        raise InputError("target_lengths", came, f"({n},) whole numbers >= 0, one a sequence")
    return lengths.to(torch.int64)


def _sequences(y: Tensor, lengths: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return label sequences `(N, L)`, padded by 0, and their lengths; a tensor may be padded by `ignore_index`."""
    if y.ndim != 2:
        raise InputError("y", f"shape {tuple(y.shape)}", "a list of label sequences, or (N, L) labels")
    steps = torch.arange(y.shape[1])[None]
    if lengths is None:
        lengths = (y != ignore_index).sum(1)
        inside = steps < lengths[:, None]
        if bool(((y != ignore_index) != inside).any()):
            raise InputError("y", f"{ignore_index} between labels", f"{ignore_index} after the last label only")
    y = y.masked_fill(steps >= lengths[:, None], 0)
    return (y if y.shape[1] else y.new_zeros(len(y), 1)), lengths
