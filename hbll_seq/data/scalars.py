"""Checks of single numbers given as arguments: whole numbers, positive numbers, seeds."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from hbll_seq.errors import InputError

LARGEST = 2**62  # of whole numbers: counts must fit in 63 bits
LARGEST_SEED = 2**42  # seed and update number together make a generator's seed of 63 bits


def integer(name: str, value: Any, least: int = 1, extra: str = "", most: int = LARGEST) -> int:
    """Return `value` as an int in `least`..`most`; NumPy's integers are accepted."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= most:
        expected = f"an integer >= {least}" if most == LARGEST else f"an integer in {least}..{most}"
        raise InputError(name, shown(value), expected + extra)
    return int(value)


def number(name: str, value: Any, least: float = 0.0, most: float = math.inf, extra: str = "") -> float:
    """Return `value` as a finite float in `least`..`most`."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not (math.isfinite(as_float(value)) and least <= as_float(value) <= most):
        expected = f"a number >= {least:g}" if most == math.inf else f"a number from {least:g} to {most:g}"
        raise InputError(name, shown(value), expected + extra)
    return float(value)


def positive(name: str, value: Any, extra: str = "") -> float:
    """Return `value` as a finite float > 0."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < as_float(value) < math.inf:
        raise InputError(name, shown(value), f"a number > 0{extra}")
    return float(value)


def check_seed(seed: Any) -> int:
    """Return the seed as an int, small enough to leave room for the update's number."""
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or abs(int(seed)) > LARGEST_SEED:
        raise InputError("seed", shown(seed), f"an integer within +-{LARGEST_SEED}")
    return int(seed)


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


def as_float(value: Any) -> float:
    """Return `float(value)`; infinity for a whole number too large for a float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf
