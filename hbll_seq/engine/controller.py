"""The controller: from measured residuals, the number of sweeps and corrections, and the attempts that a run gives up.

It works like the error control of an ODE solver. The loops of `solve.py` know their residuals. The controller remembers
how many iterations a tolerance took, so that the next update keeps activations only when it expects to be done. Every
`check_every` updates the loss on the solved boundaries is compared with the loss of the deployed chain on the same
batch, and the tolerance follows that gap. The pull acts only while a fixed number of sweeps ends above the tolerance.

An update whose states or messages would not converge switches to an exact schedule. A run that had to switch in more
than a tenth of its updates starts with that schedule for a while, then tries again.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from hbll_seq.engine.effort import Effort
from hbll_seq.engine.plan import Record
from hbll_seq.errors import warn

_MEMORY = 8  # updates remembered when the effort is lowered
PULL_FIRST, PULL_MOST = 0.02, 1.0  # the range in which a pull changed anything
FEW = 64  # most blocks with the tolerance of the messages as given
ROUNDING = 30.0  # amplification from which float32 was more than 5 % off in 64 of 66 cases
SWITCHES = 3  # updates that had to switch before a run starts with the exact schedule
PAUSE = 100  # updates with the exact schedule, the first time; twice as many every further time
ADVICE = {
    "states": "its boundary states do not agree after sweeps: the network remembers, or reacts violently, over many "
    "blocks, or draws random numbers (dropout in a cell). Steps go on with boundaries from one roll in order. "
    'execution="sequential" or "auto" saves the attempts',
    "messages": "its feedback messages do not converge: small changes of a state grow from block to block. "
    'The gradient stays exact; steps go on in order. execution="sequential" or "auto" saves the attempts',
}


class Controller:
    """Effort, tolerance, pull and carry calibration of one model, all adjusted by measurement.

    Args:
        tolerance, feedback_tolerance, most: see `Options`.
        finest: lower limit of the tolerance, if that is more than a hundredth of its initial value.

    Attributes:
        tolerance: target of the relative inconsistency; between a hundredth (or `finest`) and once its initial value.
        pull: weight of the consistency term.
        steps: updates seen.
    """

    def __init__(self, tolerance: float, feedback_tolerance: float, most: int, finest: float = 0.0) -> None:
        self.initial = self.tolerance = tolerance
        self.least = max(tolerance * 0.01, finest)
        self.feedback_tolerance, self.most = feedback_tolerance, most
        self.pull = 0.0
        self.steps = 0
        self._needed: dict[int, deque[int]] = {}
        self._corrections: dict[int, deque[int]] = {}
        self._blocks: dict[int, int] = {}  # of each layer in this step
        self._products: dict[int, Tensor] = {}  # (2, M), see Record.statistics
        self._mixed: dict[int, Tensor | float] = {}  # of these products
        self._said_rounding = False
        self._avoid = {kind: _Avoid() for kind in ADVICE}

    def sweeps(self, layer: int) -> Effort:
        """Decide the effort of a layer's consistency sweeps."""
        return Effort(_least(self._needed.get(layer), 1), self.most, self.tolerance)

    def feedback(self, layer: int, blocks: int) -> Effort:
        """Decide the effort of a layer's feedback corrections over so many blocks."""
        self._blocks[layer] = blocks
        return Effort(_least(self._corrections.get(layer), 0), self.most, self.feedback_within(blocks))

    def feedback_within(self, blocks: int) -> float:
        """Return the residual allowed to messages over so many blocks: errors add up from block to block.

        What the next scan would move shows most of that, but not where the carry is far from the Jacobian
        (docs/notes/2026-11-29-errors-that-add-up.md).
        """
        return self.feedback_tolerance * min(1.0, (FEW / blocks) ** 2)

    def avoid(self) -> str:
        """Return the attempts to avoid in this update: "states", "messages" (and with them the states), or ""."""
        return next((kind for kind in ("messages", "states") if self._avoid[kind].now(self.steps)), "")

    def mix(self, layer: int) -> Tensor | float:
        """Fit the weights `(M,)` of the cell's own carry: least squares of the seen change on the predicted
        (docs/method.md#solving-for-the-states-consistency-sweeps).

        Units that hardly moved keep 1. Weights stay in [0, 1.5]: a carry that predicts nothing is
        dropped (a Jacobi sweep), never reversed.
        """
        if layer not in self._products:
            return 1.0
        if layer not in self._mixed:
            pp, pe = self._products[layer]
            prior = 0.05 * pp.mean() + 1e-20  # a weak prior towards weight 1
            self._mixed[layer] = ((pe + prior) / (pp + prior)).clamp(0.0, 1.5)
        return self._mixed[layer]

    def carry_weight(self) -> float:
        """Average the calibrated weights of the cells' own carry: 1 where the diagonal predicts the blocks' ends."""
        weights = [self.mix(layer) for layer in self._products]
        return float(sum(torch.as_tensor(w).mean() for w in weights) / len(weights)) if weights else 1.0

    def observe(self, records: list[Record]) -> None:
        """Learn from one update: one record per call of a layer."""
        for record in records:
            self._observe(record.layer, record)
        said = any(avoid.times for avoid in self._avoid.values())
        begun = [k for k, a in self._avoid.items() if a.observe(self.steps, any(k in r.gave_up for r in records))]
        if begun and not said:  # once a run
            warn(f"step {self.steps + 1}: {ADVICE[begun[0]]}")
        self._pull(records)
        self.steps += 1

    def _observe(self, layer: int, record: Record) -> None:
        if record.sweeps and "states" not in record.gave_up:
            needed = next((i for i, r in enumerate(record.residuals) if r <= self.tolerance), record.sweeps)
            self._needed.setdefault(layer, deque(maxlen=_MEMORY)).append(needed)
        if record.ran not in ("sequential", "pytorch"):
            within = self.feedback_within(self._blocks.get(layer, 1))
            fine = [i for i, r in enumerate(record.feedback_residuals) if r <= within]
            corrections = max(fine[0] - 1, 0) if fine else record.corrections
            self._corrections.setdefault(layer, deque(maxlen=_MEMORY)).append(corrections)
        if record.statistics is not None and bool(record.statistics[0].any()):
            old = self._products.get(layer)
            self._products[layer] = record.statistics if old is None else 0.9 * old + 0.1 * record.statistics
            self._mixed.clear()

    def _pull(self, records: list[Record]) -> None:
        """Raise the pull while a layer's boundaries stay apart after the last sweep allowed, lower it otherwise."""
        if any(r.boundaries == "forced" and r.residuals[-1] > self.tolerance for r in records):
            self.pull = min(max(self.pull, PULL_FIRST) * 1.08, PULL_MOST)
        else:
            self.pull = self.pull * 0.97 if self.pull > PULL_FIRST / 10 else 0.0

    def amplified(self, amplification: float, dtype: torch.dtype) -> None:
        """Warn, once a run, if rounding decides the gradient."""
        if amplification > ROUNDING and dtype != torch.float64 and not self._said_rounding:
            self._said_rounding = True
            warn(
                f"step {self.steps}: the way back amplifies {amplification:.0e} times, so rounding decides the "
                "gradient, whatever computes it. Try a smaller lr, clipping, smaller recurrent weights, or float64"
            )

    def compare(self, tree: float, deployed: float) -> None:
        """Tighten the tolerance if the loss on the boundaries is not the deployed chain's, relax it if it is."""
        gap = abs(deployed - tree) / max(abs(deployed), 1e-12)
        if gap > 0.01:
            self.tolerance = max(self.tolerance * 0.5, self.least)
        elif gap < 0.003:
            self.tolerance = min(self.tolerance * 1.25, self.initial)

    def state_dict(self) -> dict[str, Any]:
        """Collect the state for a resumed run."""
        return {
            "tolerance": self.tolerance,
            "pull": self.pull,
            "steps": self.steps,
            "needed": {str(k): list(v) for k, v in self._needed.items()},
            "corrections": {str(k): list(v) for k, v in self._corrections.items()},
            "avoid": {kind: avoid.state() for kind, avoid in self._avoid.items()},
            **{f"products.{k}": v for k, v in self._products.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self.tolerance = max(state["tolerance"], self.least)  # it may come from a run in another precision
        self.pull, self.steps = state["pull"], int(state["steps"])
        self._needed = {int(k): deque(v, maxlen=_MEMORY) for k, v in state["needed"].items()}
        self._corrections = {int(k): deque(v, maxlen=_MEMORY) for k, v in state["corrections"].items()}
        for kind, avoid in self._avoid.items():
            avoid.load(state.get("avoid", {}).get(kind, [0, 0, 0, 0]))  # older runs avoided nothing
        products = {int(k.split(".")[1]): v for k, v in state.items() if k.startswith("products.")}
        self._products = {k: v[[0, 3]] if len(v) == 5 else v for k, v in products.items()}  # older runs: five rows
        self._mixed.clear()


class _Avoid:
    """A record of one kind of attempt: its failures, and the update until which it is avoided."""

    def __init__(self) -> None:
        self.tried, self.failed, self.until, self.times = 0, 0, 0, 0

    def now(self, step: int) -> bool:
        return step < self.until

    def observe(self, step: int, failed: bool) -> bool:
        """Count an update; return True if the run now begins to avoid the attempt."""
        if self.now(step):
            return False
        self.tried, self.failed = self.tried + 1, self.failed + failed
        if self.tried > PAUSE:  # old updates count less
            self.tried, self.failed = self.tried // 2, self.failed // 2
        if self.failed < SWITCHES or 10 * self.failed <= self.tried:
            return False
        self.until, self.times = step + 1 + PAUSE * 2**self.times, self.times + 1
        self.tried = self.failed = 0
        return True

    def state(self) -> list[int]:
        return [self.tried, self.failed, self.until, self.times]

    def load(self, state: list[int]) -> None:
        self.tried, self.failed, self.until, self.times = (int(one) for one in state)


def _least(seen: deque[int] | None, first: int) -> int:
    """Return the smallest recent count: keeping activations one roll early is cheaper than a wasted roll."""
    return min(seen) if seen else first
