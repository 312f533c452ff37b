"""Checks of single numbers given as arguments: whole numbers, positive numbers, seeds.

All options pass here. A number may come as Python's, NumPy's, or a tensor or array without axes, and goes on as
Python's, so that configurations can be written as JSON. A bool is no number.
"""

import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbll_seq.errors import InputError

LARGEST = 2**62  # of whole numbers: counts must fit in 63 bits
LARGEST_SEED = 2**42  # seed and update number together make a generator's seed of 63 bits


def integer(name: str, value: Any, least: int = 1, extra: str = "", most: int = LARGEST) -> int:
    """Return `value` as an int in `least`..`most`."""
    found = as_integer(value)
    if found is None or not least <= found <= most:
        expected = f"an integer >= {least}" if most == LARGEST else f"an integer in {least}..{most}"
        raise InputError(name, shown(value), expected + extra)
    return found


def number(name: str, value: Any, least: float = 0.0, most: float = math.inf, extra: str = "") -> float:
    """Return `value` as a finite float in `least`..`most`."""
    found = as_real(value)
    if found is None or not (math.isfinite(found) and least <= found <= most):
        expected = f"a number >= {least:g}" if most == math.inf else f"a number from {least:g} to {most:g}"
        raise InputError(name, shown(value), expected + extra)
    return found


def positive(name: str, value: Any, extra: str = "") -> float:
    """Return `value` as a finite float > 0."""
    found = as_real(value)
    if found is None or not 0 < found < math.inf:
        raise InputError(name, shown(value), f"a number > 0{extra}")
    return found


def check_seed(seed: Any) -> int:
    """Return the seed as an int, small enough to leave room for the update's number."""
    found = as_integer(seed)
    if found is None or abs(found) > LARGEST_SEED:
        raise InputError("seed", shown(seed), f"an integer within +-{LARGEST_SEED}")
    return found


def choice(name: str, value: Any, allowed: Sequence[str], extra: str = "") -> str:
    """Return `value` if it is one of the words in `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(name, shown(value), f"one of {tuple(allowed)}{extra}")
    return value


def integer_or_auto(name: str, value: Any, least: int = 1) -> int | str:
    """Return `value`, "auto" or an int, at least `least`."""
    if isinstance(value, str) and value == "auto":
        return value
    return integer(name, value, least, ' or "auto"')


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(name, shown(value), "True or False")
    return bool(value)


def shown(value: Any) -> str:
    """Return `value` as text of at most a line; long and broken representations become the type's name."""
    try:
        text = repr(value)
    except Exception:  # foreign objects
        text = ""
    return text if 0 < len(text) <= 80 and "\n" not in text else type(value).__name__


def as_integer(value: Any) -> int | None:
    """Return a whole number of any package as an int; None for everything else, a bool among it."""
    if type(value) is int:
        return value
    if isinstance(value, bool | np.bool_) or getattr(value, "ndim", None) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return operator.index(value)
    except Exception:  # no integer; foreign objects raise anything
        return None


def as_real(value: Any) -> float | None:
    """Return a real number of any package as a float; None for everything else, a bool among it."""
    if isinstance(value, bool | np.bool_) or getattr(value, "ndim", None):
        return None
    if not isinstance(value, numbers.Real) and hasattr(value, "ndim") and hasattr(value, "item"):
        try:
            value = value.item()  # a tensor or array without axes
        except Exception:  # on a device that holds no values
            return None
    return None if isinstance(value, bool) or not isinstance(value, numbers.Real) else as_float(value)


def plain_number(value: Any) -> Any:
    """Return a number of any package as Python's int or float, and anything else as it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return float(value) if isinstance(value, np.float64) else value
    for found in (as_integer(value), as_real(value)):
        if found is not None:
            return found
    return value


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with their numbers as Python's."""
    return {name: plain_number(value) for name, value in options.items()}


def as_float(value: Any) -> float:
    """Return `float(value)`; infinity for a whole number too large for a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
