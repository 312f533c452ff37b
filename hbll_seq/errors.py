"""The errors of this package: a call fails on purpose in one of three ways.

`InputError` is raised before any work starts and names the argument, the value given and the value expected.
`DivergenceError` is raised during training and names the block, the step and a remedy; the model then holds its last
good weights. `LostRankError` is raised where several processes train together and one of them does not answer.
"""

import sys
import warnings
from typing import Any


class InputError(ValueError):
    """An argument that cannot be used: its name, the value given, and the value expected."""

    def __init__(self, argument: str, got: object, expected: str) -> None:
        """Build the message ``argument: got ..., expected ...``."""
        self.argument, self.got, self.expected = argument, got, expected
        super().__init__(f"{argument}: got {got}; expected {expected}")


class DivergenceError(RuntimeError):
    """A loss or gradient that is not finite: the update, the block, and a remedy.

    Attributes:
        history: the `History` of the run so far.
    """

    history: Any = None


class LostRankError(RuntimeError):
    """Another process of a group failed, or did not answer within the group's timeout; no update was made."""


class EngineWarning(UserWarning):
    """A warning, once a run: the schedule is not the one asked for, or rounding decides the gradients."""


def warn(message: str, category: type[Warning] = EngineWarning) -> None:
    """Warn at the line outside this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("hbll_seq"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
