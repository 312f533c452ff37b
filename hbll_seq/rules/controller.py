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
PULL_FIRST, PULL_MOST = 0.02, 1.0  # the range in which the prototype's figures changed


class Controller:
    """Effort, tolerance, pull and carry calibration, all adjusted by measurement.

    Args:
        tolerance, feedback_tolerance, most: see `HBLL`.
        finest: what the tolerance is never tightened below, where that is more than a hundredth of its initial value.

    Attributes:
        tolerance: relative inconsistency aimed at; between a hundredth (or `finest`) and once its initial value.
        pull: weight of the consistency term.
        steps: training steps seen.
    """

    def __init__(self, tolerance: float, feedback_tolerance: float, most: int, finest: float = 0.0) -> None:
        self.initial = self.tolerance = tolerance
        self.least = max(tolerance * 0.01, finest)
        self.feedback_tolerance, self.most = feedback_tolerance, most
        self.pull = 0.0
        self.steps = 0
        self._needed: dict[int, deque[int]] = {}
        self._corrections: dict[int, deque[int]] = {}
        self._products: dict[int, Tensor] = {}  # (5, M), see LayerRecord.statistics
        self._mixed: dict[tuple[int, bool], tuple[Tensor | float, Tensor | float]] = {}  # of these products

    def sweeps(self, layer: int) -> Effort:
        """Effort of the consistency sweeps."""
        return Effort(_least(self._needed.get(layer), 1), self.most, self.tolerance)

    def feedback(self, layer: int) -> Effort:
        """Effort of the feedback corrections."""
        return Effort(_least(self._corrections.get(layer), 0), self.most, self.feedback_tolerance)

    def mix(self, layer: int, *, learned: bool) -> tuple[Tensor | float, Tensor | float]:
        """Weights `(M,)` of the own and the learned carry: least squares of the seen change on the predicted.

        Units that hardly moved keep (1, 0). Weights stay in [0, 1.5]: a carry that predicts nothing is
        dropped (a Jacobi sweep), never reversed.
        """
        if layer not in self._products:
            return 1.0, 0.0
        if (layer, learned) not in self._mixed:
            self._mixed[layer, learned] = self._mix(self._products[layer], learned)
        return self._mixed[layer, learned]

    @staticmethod
    def _mix(products: Tensor, learned: bool) -> tuple[Tensor | float, Tensor | float]:
        pp, pq, qq, pe, qe = products
        prior = 0.05 * (pp.mean() + qq.mean()) + 1e-20
        pp, pe = pp + prior, pe + prior  # as if p had also predicted perfectly a little
        if not learned:
            return (pe / pp).clamp(0.0, 1.5), 0.0
        qq = qq + prior
        det = (pp * qq - pq * pq).clamp(min=1e-20)
        own, other = (qq * pe - pq * qe) / det, (pp * qe - pq * pe) / det
        return own.clamp(0.0, 1.5), other.clamp(0.0, 1.5)

    def carry_weight(self) -> float:
        """Mean weight of the cells' own carry as calibrated so far: 1 where the diagonal predicts the blocks' ends."""
        weights = [self.mix(layer, learned=False)[0] for layer in self._products]
        return float(sum(torch.as_tensor(w).mean() for w in weights) / len(weights)) if weights else 1.0

    def observe(self, records: list[LayerRecord]) -> None:
        """Learn from one step: one record a layer."""
        for layer, record in enumerate(records):
            self._observe(layer, record)
        self._pull(records)

    def _observe(self, layer: int, record: LayerRecord) -> None:
        needed = next((i for i, r in enumerate(record.residuals) if r <= self.tolerance), record.sweeps)
        self._needed.setdefault(layer, deque(maxlen=_MEMORY)).append(needed)
        fine = [i for i, r in enumerate(record.feedback_residuals) if r <= self.feedback_tolerance]
        corrections = max(fine[0] - 1, 0) if fine else record.corrections
        self._corrections.setdefault(layer, deque(maxlen=_MEMORY)).append(corrections)
        if record.statistics is not None and bool(record.statistics[0].any()):
            old = self._products.get(layer)
            self._products[layer] = record.statistics if old is None else 0.9 * old + 0.1 * record.statistics
            self._mixed.clear()

    def _pull(self, records: list[LayerRecord]) -> None:
        """More pull while a layer's boundaries stay apart after the last sweep allowed, less otherwise."""
        if any(r.residuals[-1] > self.tolerance for r in records):
            self.pull = min(max(self.pull, PULL_FIRST) * 1.08, PULL_MOST)
        else:
            self.pull = self.pull * 0.97 if self.pull > PULL_FIRST / 10 else 0.0

    def compare(self, tree: float, deployed: float) -> None:
        """Tighten the tolerance where the tree's loss is not the deployed chain's, relax it where it is."""
        gap = abs(deployed - tree) / max(abs(deployed), 1e-12)
        if gap > 0.01:
            self.tolerance = max(self.tolerance * 0.5, self.least)
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
        self.tolerance = max(state["tolerance"], self.least)  # it may come from a run in another precision
        self.pull, self.steps = state["pull"], int(state["steps"])
        self._needed = {int(k): deque(v, maxlen=_MEMORY) for k, v in state["needed"].items()}
        self._corrections = {int(k): deque(v, maxlen=_MEMORY) for k, v in state["corrections"].items()}
        self._products = {int(k.split(".")[1]): v for k, v in state.items() if k.startswith("products.")}
        self._mixed.clear()


def _least(seen: deque[int] | None, default: int) -> int:
    """The smallest recent count: asking for activations one roll early is cheaper than a wasted roll."""
    return min(seen) if seen else default
