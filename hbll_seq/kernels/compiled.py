"""numba compilation with a cache on disk where one can be written."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Compile `function` by numba with `options`; division by zero gives infinity, as in torch."""
    try:
        return njit(cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # numba may write neither to the package's directory nor to a user cache
        return njit(error_model="numpy", **options)(function)
