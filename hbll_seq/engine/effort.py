"""`Effort`: how long a loop over boundaries or messages goes on, and when it gives up."""

import math
from typing import NamedTuple


class Effort(NamedTuple):
    """The limits of a loop.

    Attributes:
        least: iterations without a test (rolled without keeping activations).
        most: iterations after which it stops with any residual.
        tolerance: relative residual at which it stops.
        fixed: the user fixed the count: `most` iterations are made and used, with any residual.
    """

    least: int
    most: int
    tolerance: float
    fixed: bool = False

    def hopeless(self, residuals: list[float], most: int) -> bool:
        """Predict from the residuals so far, one per iteration, that `most` iterations will not meet the tolerance.

        The prediction continues a geometric series at the better rate of the last iteration and the last two. It starts
        at the second iteration (docs/notes/2026-11-28-dynamics-that-do-not-forget.md compares rules): the first one
        says little, since its guess was zero.
        """
        if self.fixed or len(residuals) <= 2:
            return False
        *_, first, before, last = residuals
        if not math.isfinite(last):
            return True
        if last <= self.tolerance:
            return False
        rate = min(last / before, math.sqrt(last / first))
        return last * rate ** (most + 1 - len(residuals)) > self.tolerance
