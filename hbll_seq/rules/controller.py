"""Decides, from what is measured, how much effort a step spends.

Like the error control of an ODE solver: the loops of `solve.py` know their residuals, and the
controller remembers how many iterations a tolerance took, so that the next step asks for activations
only when it expects to be done. Every `check_every` steps the loss on the tree's boundaries is
compared with the loss of the deployed chain on the same batch: what matters is that gap, and
the tolerance follows it. The pull acts only while the sweeps end above the tolerance.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from hbll_seq.local import LayerRecord
from hbll_seq.solve import Effort

_MEMORY = 8  # steps remembered when the effort is lowered


class Controller:
    """Effort, tolerance, pull and carry calibration, all adjusted by measurement.

    Attributes:
        tolerance: relative inconsistency aimed at; between a hundredth and once its initial value.
        pull: weight of the consistency term.
        steps: training steps seen.
    """

    def __init__(self, tolerance: float, feedback_tolerance: float, most: int) -> None:
        self.initial = self.tolerance = tolerance
        self.feedback_tolerance, self.most = feedback_tolerance, most
        self.pull = 0.0
        self.steps = 0
        self._needed: dict[int, deque[int]] = {}
        self._corrections: dict[int, deque[int]] = {}
        self._products: dict[int, Tensor] = {}  # (2, M): running sums of predicted*seen and predicted^2

    def sweeps(self, layer: int) -> Effort:
        """Effort of the consistency sweeps."""
        return Effort(_least(self._needed.get(layer), 1), self.most, self.tolerance)

    def feedback(self, layer: int) -> Effort:
        """Effort of the feedback corrections."""
        return Effort(_least(self._corrections.get(layer), 0), self.most, self.feedback_tolerance)

    def scale(self, layer: int) -> Tensor | None:
        """`(M,)` factor on the carry: least squares of seen on predicted change, within [0, 1.5]."""
        products = self._products.get(layer)
        if products is None:
            return None
        prior = products[1].mean() * 0.05 + 1e-20  # units that hardly moved keep a factor near 1
        return ((products[0] + prior) / (products[1] + prior)).clamp(0.0, 1.5)

    def observe(self, layer: int, record: LayerRecord) -> None:
        """Learn from one layer's step."""
        needed = next((i for i, r in enumerate(record.residuals) if r <= self.tolerance), record.sweeps)
        self._needed.setdefault(layer, deque(maxlen=_MEMORY)).append(needed)
        fine = [i for i, r in enumerate(record.feedback_residuals) if r <= self.feedback_tolerance]
        corrections = max(fine[0] - 1, 0) if fine else record.corrections
        self._corrections.setdefault(layer, deque(maxlen=_MEMORY)).append(corrections)
        if record.statistics is not None and bool(record.statistics[1].any()):
            new = torch.stack(record.statistics)
            old = self._products.get(layer)
            self._products[layer] = new if old is None else 0.9 * old + 0.1 * new

    def compare(self, tree: float, deployed: float) -> None:
        """Tighten the tolerance where the tree's loss is not the deployed chain's, relax it where it is."""
        gap = abs(deployed - tree) / max(abs(deployed), 1e-12)
        if gap > 0.01:
            self.tolerance = max(self.tolerance * 0.5, self.initial * 0.01)
        elif gap < 0.003:
            self.tolerance = min(self.tolerance * 1.25, self.initial)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "tolerance": self.tolerance,
            "pull": self.pull,
            "steps": self.steps,
            "needed": {str(k): list(v) for k, v in self._needed.items()},
            "corrections": {str(k): list(v) for k, v in self._corrections.items()},
            **{f"products.{k}": v for k, v in self._products.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.tolerance, self.pull, self.steps = state["tolerance"], state["pull"], int(state["steps"])
        self._needed = {int(k): deque(v, maxlen=_MEMORY) for k, v in state["needed"].items()}
        self._corrections = {int(k): deque(v, maxlen=_MEMORY) for k, v in state["corrections"].items()}
        self._products = {int(k.split(".")[1]): v for k, v in state.items() if k.startswith("products.")}


def _least(seen: deque[int] | None, default: int) -> int:
    """The smallest recent count: asking for activations one roll early is cheaper than a wasted roll."""
    return min(seen) if seen else default
