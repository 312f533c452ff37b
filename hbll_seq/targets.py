"""Targets: one per sequence, one per step, a regression target, or the next input.

Task "sequence": y `(N,)` int64 labels, or `(N, C)` floats. Task "step": y `(N, T)` int64 labels with
`ignore_index` where a step has none, or `(N, T, C)` floats; a list of one array a sequence where lengths
differ. Task "next": y is None and the target of step t is the input of step t + 1. `mask` `(N, T)` says
further which steps' targets count.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel


def check_targets(
    x: Tensor, lengths: Tensor, y: Any, mask: Any, model: SequenceModel, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x, lengths, y and mask as `Batch` has them.

    Raises:
        InputError: names the argument, what came and what was expected.
    """
    n, t = x.shape[:2]
    if model.task == "next":
        if y is not None:
            raise InputError("y", "targets", "None: a next-step model predicts its own input")
        if t < 2 or int(lengths.min()) < 2:
            raise InputError(
                "x", f"a sequence of {min(t, int(lengths.min()))} step", "at least 2 for next-step prediction"
            )
        seen = _mask(mask, n, t, lengths)
        inside = torch.arange(t - 1)[None] < lengths[:, None] - 1  # a sequence's last step is target only
        before = x[:, :-1] * (inside if x.ndim == 2 else inside.unsqueeze(-1)).to(x.dtype)
        return before, lengths - 1, x[:, 1:].contiguous(), seen[:, 1:].contiguous()
    if y is None:
        raise InputError("y", "None", f"targets: the model's task is {model.task!r}")
    if model.task == "sequence":
        if mask is not None:
            raise InputError("mask", "given", "None: there is one target a sequence")
        return x, lengths, _per_sequence(y, n, model), None
    target, counted = _per_step(y, n, t, model, ignore_index)
    seen = _mask(mask, n, t, lengths) & counted
    if not seen.any():
        raise InputError("y", "no step that counts", "at least one target that is not ignored, masked or padding")
    return x, lengths, target, seen


def _mask(mask: Any, n: int, t: int, lengths: Tensor) -> Tensor:
    valid = torch.arange(t)[None] < lengths[:, None]
    if mask is None:
        return valid
    mask = torch.as_tensor(mask)
    if mask.shape != (n, t):
        raise InputError("mask", f"shape {tuple(mask.shape)}", f"({n}, {t}), one a step")
    if mask.dtype != torch.bool:
        raise InputError("mask", f"dtype {mask.dtype}", "bool")
    return valid & mask


def _stack(y: Any) -> Tensor:
    if isinstance(y, list) and y and not isinstance(y[0], int | float):
        return torch.stack([torch.as_tensor(one) for one in y])
    return torch.as_tensor(y)


def _per_sequence(y: Any, n: int, model: SequenceModel) -> Tensor:
    target = _stack(y)
    if target.ndim == 0 or len(target) != n:
        raise InputError("y", f"shape {tuple(target.shape)}", f"({n}, ...): one a sequence of x")
    if model.objective == "cross_entropy":
        if target.ndim != 1:
            hint = "" if target.ndim != 2 else "; for one target a step make the model with task='step'"
            raise InputError("y", f"shape {tuple(target.shape)}", f"({n},) labels{hint}")
        return _labels(target, model, None)
    return _values(target.unsqueeze(1) if target.ndim == 1 else target, (n, model.output_size), model)


def _per_step(y: Any, n: int, t: int, model: SequenceModel, ignore_index: int) -> tuple[Tensor, Tensor]:
    ragged = isinstance(y, list) and y and not isinstance(y[0], int | float)
    fill = ignore_index if model.objective == "cross_entropy" else 0
    if ragged:
        parts = [torch.as_tensor(one) for one in y]
        target = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)
        if target.shape[1] < t:
            gap = target.new_full((len(parts), t - target.shape[1], *target.shape[2:]), fill)
            target = torch.cat([target, gap], 1)
    else:
        target = torch.as_tensor(y)
        if target.ndim == 1 + (model.objective == "mse") and n == 1:
            target = target.unsqueeze(0)  # one unbatched sequence
    everywhere = torch.ones(n, t, dtype=torch.bool)
    if model.objective == "mse":
        if target.ndim == 2 and model.output_size == 1:
            target = target.unsqueeze(2)
        return _values(target, (n, t, model.output_size), model), everywhere
    if target.shape != (n, t):
        raise InputError("y", f"shape {tuple(target.shape)}", f"({n}, {t}), one label a step of x")
    counted = target != ignore_index
    return _labels(target, model, counted), counted


def _labels(y: Tensor, model: SequenceModel, counted: Tensor | None) -> Tensor:
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError("y", f"dtype {y.dtype}", "integer labels (the objective is cross-entropy)")
    seen = y if counted is None else y[counted]
    if seen.numel() and (int(seen.min()) < 0 or int(seen.max()) >= model.output_size):
        raise InputError(
            "y", f"labels in {int(seen.min())}..{int(seen.max())}", f"labels in 0..{model.output_size - 1}"
        )
    y = y.to(torch.int64)
    return y if counted is None else y.masked_fill(~counted, 0)


def _values(y: Tensor, shape: tuple[int, ...], model: SequenceModel) -> Tensor:
    if y.shape != shape:
        raise InputError("y", f"shape {tuple(y.shape)}", f"{shape}")
    y = y.to(next(model.parameters()).dtype)
    if not torch.isfinite(y).all():
        raise InputError("y", "NaN or infinity", "finite numbers")
    return y
