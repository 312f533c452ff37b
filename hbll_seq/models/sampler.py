"""The choice of the next symbol from a model's predictions.

A symbol's weight is `exp((logit - largest) / temperature)`. The choice is the first symbol whose cumulative weight
exceeds a uniform number times the total: the inverse of the cumulative distribution. It may be narrowed first: to the k
largest weights (Fan et al. 2018), then to the largest that make a share p of what is left (Holtzman et al. 2020);
weights equal to the smallest that stays all stay. Sums are float64, because those of
thousands of float32 weights are too coarse. The compiled loop (`kernels.emit_continuation`) does the same, so both give
the same text for a seed, up to rounding.
"""

import torch
from torch import Tensor

from hbll_seq.data.scalars import check_seed, integer, number, positive
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
        top_k: choose among the k most likely symbols; None for all.
        top_p: choose among the most likely symbols that have this share of the probability together; None for all.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(self, temperature: float, seed: int, top_k: int | None = None, top_p: float | None = None) -> None:
        check_temperature(temperature)
        self.temperature = float(temperature)
        self.top_k = None if top_k is None else integer("top_k", top_k, extra=", or None")
        self.top_p = None if top_p is None else positive("top_p", top_p, " and at most 1, or None")
        if self.top_p is not None and self.top_p > 1:
            raise InputError("top_p", top_p, "a number > 0 and at most 1, or None")
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
        if self.top_k is not None or self.top_p is not None:
            cumulative = self._narrowed(weights).cumsum(0)
        place = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
        return min(int(place), len(logits) - 1)

    def _narrowed(self, weights: Tensor) -> Tensor:
        """Return weights `(V,)` with zeros where a symbol is not to be chosen."""
        if self.top_k is not None and self.top_k < len(weights):
            weights = torch.where(weights >= weights.topk(self.top_k).values[-1], weights, 0.0)
        if self.top_p is not None and self.top_p < 1:
            largest = weights.sort(descending=True).values
            mass = largest.cumsum(0)
            last = min(int(torch.searchsorted(mass, self.top_p * mass[-1])), len(mass) - 1)
            weights = torch.where(weights >= largest[last], weights, 0.0)
        return weights


def not_finite() -> InputError:
    """Return the error of a model whose predictions are NaN or infinite."""
    return InputError("model", "predictions that are NaN or infinite", "weights that predict numbers")
