"""Tensors from anything that holds numbers: every x, y, lengths and mask comes in here.

Refused by name: tensors without values (meta) or of another layout (sparse, nested), masked values, and values that
are no real numbers (complex, text, dates, objects). Nothing is dropped or cut in silence.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbll_seq.errors import InputError

NUMBERS = "a tensor, array or list of numbers"
# torch stores these and cannot compute with them; uint16 is how tokenised text is often kept on disk
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
USABLE = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, *WIDER,
}  # fmt: skip
KINDS = {
    "c": "complex numbers", "O": "Python objects", "U": "text", "S": "bytes", "T": "text", "V": "structured records",
    "M": "dates", "m": "spans of time",
}  # fmt: skip


def as_tensor(value: Any, name: str, expected: str = NUMBERS) -> Tensor:
    """Return a detached tensor on the CPU; writable NumPy memory is shared, other memory is copied.

    Data stay on the CPU until their batch is drawn. A batch is small, and lengths are needed there anyway.

    Raises:
        InputError: `value` does not hold numbers; `name` is its name in the message.
    """
    try:
        if isinstance(value, Tensor):
            return _wide(plain(value, name).detach().cpu(), name)
        return _wide(_from_array(value, name, expected), name)
    except InputError:
        raise
    except Exception as error:  # a foreign `__array__` or tensor class may raise anything
        raise InputError(name, f"{type(value).__name__} that is not numeric", f"numbers ({error})") from error


def plain(value: Tensor, name: str) -> Tensor:
    """Return `value` on its device as an ordinary dense tensor of real numbers, with its gradient.

    Raises:
        InputError: another kind of tensor; names it and the call that makes a plain one.
    """
    kind = type(value)
    if kind is Tensor and value.layout is torch.strided and value.dtype in USABLE:  # almost always; the rest is slow
        if not (value.is_nested or value.is_meta):
            return value.resolve_neg()
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise InputError(name, f"a {kind.__name__}", "a plain torch.Tensor")
    if kind is not Tensor:
        value = value.as_subclass(Tensor)
    for wrong, came, make in (
        (value.is_nested, "a nested tensor", "a list of tensors: x.unbind()"),
        (value.layout is not torch.strided, f"a tensor of layout {value.layout}", "a dense one: x.to_dense()"),
        (value.is_meta, "a tensor on the meta device, which has no values", "a tensor with values"),
        (value.is_quantized, f"a quantised tensor, {value.dtype}", "numbers: x.dequantize()"),
        (value.is_complex(), f"dtype {value.dtype}", "real numbers: x.real, x.abs() or torch.view_as_real(x)"),
        (value.dtype not in USABLE, f"dtype {value.dtype}", "float16, bfloat16, float32, float64, integers or bool"),
    ):
        if wrong:
            raise InputError(name, came, make)
    return value.resolve_neg()  # kernels read memory, where a negative view still has its old sign


def _wide(value: Tensor, name: str) -> Tensor:
    """Return `value` in a dtype that torch computes with."""
    if value.dtype not in WIDER:
        return value
    wide = value.to(WIDER[value.dtype])
    if value.dtype == torch.uint64 and value.numel() and int(wide.min()) < 0:
        raise InputError(name, "uint64 numbers from 2^63 on", "numbers below 2^63")
    return wide


def _from_array(value: Any, name: str, expected: str) -> Tensor:
    if isinstance(value, str | bytes | bytearray):
        raise InputError(name, f"{type(value).__name__} that is not numeric", expected)
    if not (isinstance(value, int | float | Sequence) or hasattr(value, "__array__")):
        hint = ": x.toarray()" if hasattr(value, "toarray") else ""  # SciPy's sparse matrices
        raise InputError(name, type(value).__name__, expected + hint)
    if isinstance(value, np.ma.MaskedArray):
        _refuse_masked(value, name)
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, Tensor) for one in value):
            return _stack(value, name)
        _look_for_masked(value, name)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        came = KINDS.get(array.dtype.kind, "values")
        raise InputError(name, f"{type(value).__name__} that is not numeric: {came}, dtype {array.dtype}", expected)
    if array.dtype.itemsize > 8:
        raise InputError(name, f"dtype {array.dtype}", "float64 or less")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # "C", "W": torch has no negative strides and warns of read-only memory (np.memmap)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _stack(parts: Sequence[Any], name: str) -> Tensor:
    tensors = [as_tensor(one, f"{name}[{i}]") for i, one in enumerate(parts)]
    for i, one in enumerate(tensors):
        if one.shape != tensors[0].shape:
            raise InputError(f"{name}[{i}]", f"shape {tuple(one.shape)}", f"{tuple(tensors[0].shape)} like {name}[0]")
    return torch.stack(alike(tensors))


def alike(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors in one dtype that holds them all: padding would cast to the first one's."""
    dtype = functools.reduce(torch.promote_types, (one.dtype for one in parts))
    return [one.to(dtype) for one in parts]


def _refuse_masked(value: Any, name: str) -> None:
    masked = int(np.ma.getmaskarray(value).sum())
    if masked:
        raise InputError(
            name, f"a masked array with {masked} masked values", "an array; say what counts by mask= or lengths"
        )


def _look_for_masked(value: Sequence[Any], name: str, depth: int = 0) -> None:
    """Refuse masked arrays inside lists: `np.asarray` would drop their masks."""
    kinds = set(map(type, value))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
        for one in value:
            if isinstance(one, np.ma.MaskedArray):
                _refuse_masked(one, name)
    if depth < 8 and any(issubclass(kind, list | tuple) for kind in kinds):
        for one in value:
            if isinstance(one, list | tuple):
                _look_for_masked(one, name, depth + 1)
