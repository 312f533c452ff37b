"""The two ways a call of this package fails on purpose.

`InputError` is raised before any work starts and names the argument, what came and
what was expected. `DivergenceError` is raised during training and names the block, the
step and a remedy; the model then holds its last good weights.
"""

import sys
import warnings
from typing import Any


class InputError(ValueError):
    """An argument cannot be used: says which, what came, and what was expected."""

    def __init__(self, argument: str, got: object, expected: str) -> None:
        """Build the message ``argument: got ..., expected ...``."""
        self.argument, self.got, self.expected = argument, got, expected
        super().__init__(f"{argument}: got {got}; expected {expected}")


class DivergenceError(RuntimeError):
    """Training left the finite numbers: says at which step, in which block, and what to try.

    Attributes:
        history: the `History` of the run so far.
    """

    history: Any = None


class EngineWarning(UserWarning):
    """Said once a run: it goes on by another schedule than asked for, or rounding decides its gradients."""


def warn(message: str, category: type[Warning] = EngineWarning) -> None:
    """Warn, pointing to the line outside this package which led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("hbll_seq"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
