"""Checks for streaming: the input of one time step, states of layers, a prompt."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.checks import check_values
from hbll_seq.data.expected import Expected
from hbll_seq.data.tensors import as_tensor, plain
from hbll_seq.errors import InputError


def check_step(x: Any, model: Expected) -> Tensor:
    """Return one input of each sequence, `(B,)` symbols or `(B, D)` features, on the model's device and in its dtype.

    Raises:
        InputError: another shape, symbols that the model does not have, features that are not finite.
    """
    x = plain(x, "x") if isinstance(x, Tensor) else as_tensor(x, "x")
    like = next(model.parameters())
    if model.input_kind == "symbols":
        if x.is_floating_point() or x.dtype == torch.bool:
            raise InputError("x", f"dtype {x.dtype}", "integer symbols (this model has input_kind='symbols')")
        x = x.to(like.device, torch.int64)
    else:
        x = x.to(like)
    expected = "(B,), a symbol a sequence" if model.input_kind == "symbols" else f"(B, {model.input_size})"
    if x.ndim == 0 or x.shape[1:] != (() if model.input_kind == "symbols" else (model.input_size,)) or x.numel() == 0:
        raise InputError("x", f"shape {tuple(x.shape)}", expected)
    return check_values(x, model)


def check_state(state: Any, shapes: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
    """Return the states of all layers, `(B, S)` each, on the device of `like` and in its dtype.

    Raises:
        InputError: not one tensor a layer, another shape, or numbers that are not finite.
    """
    if not isinstance(state, list | tuple) or len(state) != len(shapes):
        came = f"{len(state)} things" if isinstance(state, list | tuple) else type(state).__name__
        raise InputError("state", came, f"what `step` returned: a list of {len(shapes)} tensors, one a layer")
    found = []
    for i, (one, shape) in enumerate(zip(state, shapes, strict=True)):
        if not isinstance(one, Tensor):
            raise InputError(f"state[{i}]", type(one).__name__, "a tensor, as `step` returned it")
        one = plain(one, f"state[{i}]")
        if one.shape != shape or not one.is_floating_point():
            raise InputError(f"state[{i}]", f"shape {tuple(one.shape)} of {one.dtype}", f"{shape} of {like.dtype}")
        # a sum is one pass, and not finite if one number is not; it may also overflow
        if not math.isfinite(one.detach().sum()) and not torch.isfinite(one).all():
            raise InputError(f"state[{i}]", "NaN or infinity", "finite numbers")
        found.append(one.to(like))
    return found


def check_prompt(prompt: Any, model: Expected) -> Tensor:
    """Return a prompt `(m,)` of symbols as int64 on the CPU.

    Raises:
        InputError: not one-dimensional, empty, or symbols that the model does not have.
    """
    ids = as_tensor(prompt, "prompt", "text, or a 1-D tensor of symbols")
    if ids.ndim != 1 or ids.numel() == 0:
        raise InputError("prompt", f"shape {tuple(ids.shape)}", "at least one symbol, (m,)")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError("prompt", f"dtype {ids.dtype}", "integer symbols")
    low, high = (int(v) for v in ids.aminmax())
    if low < 0 or high >= model.input_size:
        raise InputError("prompt", f"symbols in {low}..{high}", f"symbols in 0..{model.input_size - 1}")
    return ids.to(torch.int64)
