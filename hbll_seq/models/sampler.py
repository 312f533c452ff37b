"""The choice of the next symbol from a model's predictions.

A symbol's weight is `exp((logit - largest) / temperature)`. The choice is the first symbol whose cumulative weight
exceeds a uniform number times the total: the inverse of the cumulative distribution. Sums are float64, because those of
thousands of float32 weights are too coarse. The compiled loop (`kernels.emit_continuation`) does the same, so both give
the same text for a seed, up to rounding.
"""

import torch
from torch import Tensor

from hbll_seq.data.scalars import check_seed, number
from hbll_seq.errors import InputError

COLDEST = 1e-6  # least temperature above 0 that logits can be divided by


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is neither 0 nor large enough to divide logits."""
    if not (number("temperature", temperature) == 0 or temperature >= COLDEST):
        raise InputError("temperature", temperature, f"0 for the most likely symbol, or a number >= {COLDEST:g}")


class Sampler:
    """The choices for one continuation; the global random state is not touched.

    Args:
        temperature: 0 takes the first most likely symbol, 1 samples from the model's distribution.
        seed: seed of the uniform numbers.

    Raises:
        InputError: a temperature or seed out of range.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        check_temperature(temperature)
        self.temperature = float(temperature)
        self._generator = torch.Generator().manual_seed(check_seed(seed))

    def draw(self, count: int) -> Tensor:
        """Return the next uniform numbers in [0, 1), `(count,)` float64."""
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def pick(self, logits: Tensor) -> int:
        """Choose one symbol from logits `(V,)`.

        Raises:
            InputError: logits that are NaN or infinite, as of a model that diverged.
        """
        uniform = self.draw(1) if self.temperature else None
        logits = logits.detach().cpu()
        weights = torch.exp((logits - logits.max()) / (self.temperature or 1.0)).double()
        cumulative = weights.cumsum(0)
        if not torch.isfinite(cumulative[-1]):
            raise not_finite()
        if uniform is None:
            return int(logits.argmax())
        place = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
        return min(int(place), len(logits) - 1)


def not_finite() -> InputError:
    """Return the error of a model whose predictions are NaN or infinite."""
    return InputError("model", "predictions that are NaN or infinite", "weights that predict numbers")
