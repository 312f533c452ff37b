"""numba compilation that keeps its result on disk where there is a place for it."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., None], **options: Any) -> Callable[..., None]:
    """`function` compiled by numba with `options`; division by zero gives infinity, as in torch."""
    try:
        return njit(cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba found neither a package directory nor a user cache that it may write to
        return njit(error_model="numpy", **options)(function)
