"""From the layouts of sequences that people have to a list of `(T, D)` float32 arrays; what is missing; scaling."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

from hbll_seq.errors import InputError

Layout = Literal["time_first", "channels_first"]
Missing = Literal["error", "interpolate", "zero+mask"]
LAYOUTS, MISSING = ("time_first", "channels_first"), ("error", "interpolate", "zero+mask")
Sequence = NDArray[np.float32]


def as_sequences(x: Any, layout: str) -> list[Sequence]:
    """Return a list of `(T, D)` arrays, T of each its own; NaN stays.

    Args:
        x: a list of `(T, D)` or `(T,)` arrays or tensors, or an array `(N, T, D)` or `(N, T)`; with "channels_first"
            `(D, T)` and `(N, D, T)`, as aeon has them.
        layout: see there.

    Raises:
        InputError: names the sequence and what it is.
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    if issparse(x):
        raise InputError("X", f"{type(x).__name__}", "dense arrays: sparse input is not supported")
    if hasattr(x, "to_numpy"):  # a data frame of one series a row
        x = x.to_numpy()
    elif not isinstance(x, np.ndarray | list | tuple) and hasattr(x, "__array__"):
        x = np.asarray(x)
    if not isinstance(x, np.ndarray | list | tuple):
        raise InputError("X", type(x).__name__, "a list of (T, D) arrays, or an array (N, T, D) or (N, T)")
    if isinstance(x, np.ndarray) and x.dtype != object and x.ndim not in (2, 3):
        hint = ". Reshape your data: X[None] is one sequence" if x.ndim == 1 else ""
        raise InputError("X", f"shape {x.shape}", f"(N, T, D) or (N, T), or a list of (T, D) arrays{hint}")
    if isinstance(x, np.ndarray) and x.dtype != object and len(x) and not x.size:
        raise InputError(
            "X", f"0 feature(s) (shape={x.shape}) while a minimum of 1 is required.", "sequences with values"
        )
    if not len(x):
        raise InputError("X", "no sequence", "at least one")
    found = [_one(one, f"X[{i}]", layout) for i, one in enumerate(x)]
    widths = sorted({one.shape[1] for one in found})
    if len(widths) > 1:
        hint = "" if layout == "channels_first" else '; layout="channels_first" if the arrays are (D, T)'
        raise InputError("X", f"sequences of {widths[0]} and of {widths[-1]} features", f"as many in all{hint}")
    return found


def _one(one: Any, name: str, layout: str) -> Sequence:
    if isinstance(one, Tensor):
        one = one.detach().cpu().numpy()
    try:
        array = np.asarray(np.real(one) if np.iscomplexobj(one) else one, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(name, f"{type(one).__name__} ({error})", "numbers (T, D) or (T,)") from error
    if np.iscomplexobj(one) or array.ndim not in (1, 2) or not array.size:
        hint = " (Complex data not supported)" if np.iscomplexobj(one) else ""
        raise InputError(
            name, f"{np.asarray(one).dtype} of shape {array.shape}{hint}", "numbers (T, D) or (T,), not empty"
        )
    if np.isinf(array).any():
        raise InputError(name, "infinite values", "finite ones, or NaN where a value is missing")
    if array.ndim == 1:
        return array[:, None]
    return array.T if layout == "channels_first" else array


def fill(sequences: list[Sequence], missing: Missing) -> list[Sequence]:
    """Deal with NaN.

    "error" refuses it. "interpolate" draws straight lines over time between the values around a gap and holds the first
    and last one; a feature without any value is 0. "zero+mask" puts 0 (the mean, after scaling) and adds D features: 1
    where a value is there, else 0.

    Raises:
        InputError: with "error", names the first sequence with a NaN.
    """
    if missing == "zero+mask":
        return [np.concatenate([np.nan_to_num(s), (~np.isnan(s)).astype(np.float32)], 1) for s in sequences]
    gaps = [i for i, one in enumerate(sequences) if np.isnan(one).any()]
    if missing == "error" and gaps:
        came = f"NaN in sequence {gaps[0]}" + (f" and {len(gaps) - 1} others" if len(gaps) > 1 else "")
        raise InputError("X", came, 'numbers; missing="interpolate" or "zero+mask" for gaps')
    return [_interpolated(one) if np.isnan(one).any() else one for one in sequences]


def _interpolated(one: Sequence) -> Sequence:
    out, at = one.copy(), np.arange(len(one))
    for feature in out.T:
        known = ~np.isnan(feature)
        feature[~known] = np.interp(at[~known], at[known], feature[known]) if known.any() else 0.0
    return out


def scale_of(sequences: list[Sequence]) -> tuple[Sequence, Sequence]:
    """Return mean and standard deviation `(D,)` of every feature over all time steps that have a value."""
    whole = np.concatenate(sequences).astype(np.float64)
    known = ~np.isnan(whole)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, whole, 0.0).sum(0) / count
    spread = np.sqrt((np.where(known, whole - mean, 0.0) ** 2).sum(0) / count)
    return mean.astype(np.float32), np.where(spread > 1e-8, spread, 1.0).astype(np.float32)
