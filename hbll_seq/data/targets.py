"""Targets: one per sequence, one per time step, a regression target, or the next input.

Task "sequence": y `(N,)` int64 labels, or `(N, C)` floats. Task "step": y `(N, T)` int64 labels with
`ignore_index` where a step has none, or `(N, T, C)` floats; where lengths differ, a list of one array per sequence.
Task "next": y is None, and the target of step t is the input of step t + 1. `mask` `(N, T)` selects the steps whose
targets count; values where none counts are ignored.
"""

import numbers
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hbll_seq.data.checks import dtype_of
from hbll_seq.data.expected import Expected
from hbll_seq.data.tensors import alike, as_tensor
from hbll_seq.errors import InputError


def check_targets(
    x: Tensor,
    lengths: Tensor,
    y: Any,
    mask: Any,
    model: Expected,
    ignore_index: int,
    *,
    some: bool = True,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return x, lengths, y and mask in the form of `Batch`.

    Args:
        x: padded inputs, checked.
        lengths: `(N,)`.
        y: see the module.
        mask: see the module.
        model: the model that reads x and predicts y.
        ignore_index: label of time steps that do not count.
        some: refuse data in which no target counts.
        dtype: dtype of values; None for the model's.

    Raises:
        InputError: names the argument, the value given and the value expected.
    """
    n, t = x.shape[:2]
    if model.task == "next":
        if y is not None:
            raise InputError("y", "targets", "None: a next-step model predicts its own input")
        if t < 2 or int(lengths.min()) < 2:
            raise InputError(
                "x", f"a sequence of {min(t, int(lengths.min()))} step", "at least 2 for next-step prediction"
            )
        seen = _mask(mask, n, t, lengths)[:, 1:]
        if some and not seen.any():
            raise InputError("mask", "no step that counts", "at least one True after the first step")
        inside = torch.arange(t - 1)[None] < lengths[:, None] - 1  # the last step of a sequence is only a target
        before = x[:, :-1] * (inside if x.ndim == 2 else inside.unsqueeze(-1)).to(x.dtype)
        return before, lengths - 1, x[:, 1:].contiguous(), seen.contiguous()
    if y is None:
        raise InputError("y", "None", f"targets: the model's task is {model.task!r}")
    if model.task == "sequence":
        if mask is not None:
            raise InputError("mask", "given", "None: there is one target a sequence")
        return x, lengths, per_sequence(y, n, model, dtype), None
    target = _per_step(y, n, t, lengths, model)
    counted = _mask(mask, n, t, lengths)
    if model.objective == "cross_entropy":
        # int64: -100 would wrap around to the label 156 of uint8
        counted = counted & (_integers(target).to(torch.int64) != ignore_index)
    if some and not counted.any():
        raise InputError("y", "no step that counts", "at least one target that is not ignored, masked or padding")
    if model.objective == "cross_entropy":
        return x, lengths, check_labels(target, model, counted), counted
    return x, lengths, _values(target, (n, t, model.output_size), dtype or dtype_of(model), counted), counted


def _mask(mask: Any, n: int, t: int, lengths: Tensor) -> Tensor:
    valid = torch.arange(t)[None] < lengths[:, None]
    if mask is None:
        return valid
    mask = as_tensor(mask, "mask")
    if mask.shape != (n, t):
        raise InputError("mask", f"shape {tuple(mask.shape)}", f"({n}, {t}), one a step")
    if mask.dtype != torch.bool:
        raise InputError("mask", f"dtype {mask.dtype}", "bool")
    return valid & mask


def _is_list_of_arrays(y: Any) -> bool:
    return isinstance(y, list) and len(y) > 0 and not isinstance(y[0], numbers.Number)


def per_sequence(y: Any, n: int, model: Expected, dtype: torch.dtype | None) -> Tensor:
    """Return one target per sequence: `(n,)` labels or `(n, C)` values."""
    if _is_list_of_arrays(y):
        parts = [as_tensor(one, f"y[{i}]") for i, one in enumerate(y)]
        for i, one in enumerate(parts):
            if one.shape != parts[0].shape:
                raise InputError(f"y[{i}]", f"shape {tuple(one.shape)}", f"{tuple(parts[0].shape)} like y[0]")
        target = torch.stack(alike(parts))
    else:
        target = as_tensor(y, "y")
    if target.ndim == 0 or len(target) != n:
        raise InputError("y", f"shape {tuple(target.shape)}", f"({n}, ...): one a sequence of x")
    if model.objective == "cross_entropy":
        if target.ndim != 1:
            hint = "" if target.ndim != 2 else "; for one target a step make the model with task='step'"
            raise InputError("y", f"shape {tuple(target.shape)}", f"({n},) labels{hint}")
        return check_labels(target, model, None)
    target = target.unsqueeze(1) if target.ndim == 1 else target
    return _values(target, (n, model.output_size), dtype or dtype_of(model), None)


def _per_step(y: Any, n: int, t: int, lengths: Tensor, model: Expected) -> Tensor:
    """Return `(n, t)` labels or `(n, t, C)` values, unchanged; those of a list are padded."""
    if _is_list_of_arrays(y):
        parts = [as_tensor(one, f"y[{i}]") for i, one in enumerate(y)]
        if len(parts) != n:
            raise InputError("y", f"a list of {len(parts)}", f"{n}, one a sequence of x")
        for i, (one, steps) in enumerate(zip(parts, lengths.tolist(), strict=True)):
            # t is right too: y may be padded like x
            if one.ndim == 0 or len(one) not in (steps, t) or one.shape[1:] != parts[0].shape[1:]:
                raise InputError(f"y[{i}]", f"shape {tuple(one.shape)}", f"one target for each of {steps} steps")
        target = pad_sequence(alike(parts), batch_first=True)
        target = torch.cat([target, target.new_zeros(n, t - target.shape[1], *target.shape[2:])], 1)
    else:
        target = as_tensor(y, "y")
        if n == 1 and target.shape != (1, t) and target.shape in ((t,), (t, model.output_size)):
            target = target.unsqueeze(0)  # one unbatched sequence
    if model.objective == "mse":
        return target.unsqueeze(2) if target.ndim == 2 and model.output_size == 1 else target
    if target.shape != (n, t):
        raise InputError("y", f"shape {tuple(target.shape)}", f"({n}, {t}), one label a step of x")
    return target


def _integers(y: Tensor) -> Tensor:
    if y.is_floating_point() or y.dtype == torch.bool:
        raise InputError("y", f"dtype {y.dtype}", "integer labels (the objective is cross-entropy)")
    return y


def check_labels(y: Tensor, model: Expected, counted: Tensor | None) -> Tensor:
    """Return labels as int64, 0 where they do not count; check that the others are in 0..V-1."""
    seen = _integers(y) if counted is None else y[counted]
    if seen.numel():
        low, high = (int(v) for v in seen.aminmax())
        if low < 0 or high >= model.output_size:
            raise InputError("y", f"labels in {low}..{high}", f"labels in 0..{model.output_size - 1}")
    y = y.to(torch.int64)
    return y if counted is None else y.masked_fill(~counted, 0)


def _values(y: Tensor, shape: tuple[int, ...], dtype: torch.dtype, counted: Tensor | None) -> Tensor:
    if y.shape != shape:
        raise InputError("y", f"shape {tuple(y.shape)}", f"{shape}")
    y = y.to(dtype)
    if counted is not None:
        y = y.masked_fill(~counted.unsqueeze(-1), 0)  # NaN there would reach the gradient through 0 * NaN
    if not torch.isfinite(y).all():
        raise InputError("y", "NaN or infinity", f"finite numbers in {dtype}")
    return y
