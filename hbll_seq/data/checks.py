"""Checks of inputs against the model: dtype, shape and range of symbols, features and arrays."""

import math

import torch
from torch import Tensor

from hbll_seq.data.expected import Expected
from hbll_seq.errors import InputError

# Largest size of a float32 feature. The compiled rolls of GRU and LSTM limit the argument of a sigmoid. So a
# saturated gate keeps a slope of about 2e-19 instead of 0. The gradient's error is that slope times the input. Measured
# against float64 over four cells (relative): 4e-7 at 1e12, as by PyTorch's layers; 3e-4 at 1e15; 24 times at 1e20.
LARGEST_FEATURE = 1e12


def dtype_of(model: Expected) -> torch.dtype:
    """Return the dtype of the model's weights, which its features must have."""
    return next(model.parameters()).dtype


def check_dtype(x: Tensor, model: Expected, dtype: torch.dtype | None = None) -> Tensor:
    """Return symbols unchanged, and features in `dtype` (None: the model's dtype).

    Raises:
        InputError: an empty tensor, or symbols that are not integers.
    """
    if x.numel() == 0:
        raise InputError("x", f"shape {tuple(x.shape)}", "at least one sequence of at least one step")
    if model.input_kind == "symbols":
        if x.is_floating_point() or x.dtype == torch.bool:
            raise InputError("x", f"dtype {x.dtype}", "integer symbols (this model has input_kind='symbols')")
        return x
    return x.to(dtype_of(model) if dtype is None else dtype)


def check_shape(x: Tensor, lengths: Tensor | None, model: Expected) -> tuple[Tensor, Tensor]:
    """Return x as `(N, T)`, `(N, T, D)` or `(N, *input_shape)`, and lengths `(N,)`.

    A single sequence or array gets the first axis.

    Raises:
        InputError: another shape, more steps than the model's context, lengths outside 1..T.
    """
    if model.input_kind == "array":
        return _array_shape(x, lengths, model.input_shape)
    rank, axes = (2, "(N, T)") if model.input_kind == "symbols" else (3, f"(N, T, {model.input_size})")
    if rank == 3 and model.input_size == 1 and x.ndim == 2 and x.shape[1] != 1:
        x = x.unsqueeze(-1)  # (N, T) of a single feature
    if x.ndim == rank - 1:
        x = x.unsqueeze(0)  # one unbatched sequence
    if x.ndim != rank:
        raise InputError("x", f"shape {tuple(x.shape)}", f"{axes}: sequences, steps{', features' if rank == 3 else ''}")
    if rank == 3 and x.shape[2] != model.input_size:
        hint = "; the axes look transposed, try x.transpose(1, 2)" if x.shape[1] == model.input_size else ""
        raise InputError("x", f"shape {tuple(x.shape)}", axes + hint)
    n, t = x.shape[:2]
    # next-step prediction takes one symbol more: the last one is only a target
    if model.context is not None and t > model.context + (model.task == "next"):
        raise InputError("x", f"{t} steps", f"at most the model's context, {model.context}")
    if lengths is None:
        return x, torch.full((n,), t)
    return x, check_lengths(lengths, n, t)


def check_lengths(lengths: Tensor, n: int, t: int) -> Tensor:
    """Return `(n,)` whole numbers in 1..t as int64."""
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise InputError("lengths", f"dtype {lengths.dtype}", "integers: steps, not fractions")
    if lengths.shape != (n,):
        raise InputError("lengths", f"shape {tuple(lengths.shape)}", f"({n},), one a sequence")
    low, high = (int(v) for v in lengths.aminmax())
    if low < 1 or high > t:
        raise InputError("lengths", f"values in {low}..{high}", f"values in 1..{t}")
    return lengths.to(torch.int64)


def _array_shape(x: Tensor, lengths: Tensor | None, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return x as `(N, *shape)` and "lengths" that cut nothing; a single array gets the first axis."""
    if lengths is not None:
        raise InputError("x", "(x, lengths)", f"arrays of one shape, (N, {', '.join(map(str, shape))})")
    if x.shape == shape:
        x = x.unsqueeze(0)
    if x.shape[1:] != shape:
        raise InputError("x", f"shape {tuple(x.shape)}", f"(N, {', '.join(map(str, shape))})")
    return x, torch.full((len(x),), x.shape[1])


def check_values(x: Tensor, model: Expected) -> Tensor:
    """Return x after a check of its values.

    Symbols must be in the model's range. Features must be finite, and small enough for float32 gradients.

    Raises:
        InputError: values out of range; names the first position that is not finite or too large.
    """
    # one pass without a copy; NaN survives aminmax and fails `isfinite`
    low, high = (v.item() for v in x.aminmax())
    if model.input_kind == "symbols":
        if low < 0 or high >= model.input_size:
            raise InputError("x", f"symbols in {low}..{high}", f"symbols in 0..{model.input_size - 1}")
        return x
    if not (math.isfinite(low) and math.isfinite(high)):
        at = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise InputError("x", f"NaN or infinity at {at}", f"finite numbers in {x.dtype}")
    narrow = model.input_kind == "features" and x.dtype != torch.float64
    if narrow and max(-low, high) > LARGEST_FEATURE:
        at = (x.abs() > LARGEST_FEATURE).nonzero()[0].tolist()
        raise InputError(
            "x", f"{x[tuple(at)].item():.3g} at {at}",
            f"features within +-{LARGEST_FEATURE:g}, beyond which {x.dtype} gradients are wrong; scale them, or use a "
            "float64 model",
        )  # fmt: skip
    return x
