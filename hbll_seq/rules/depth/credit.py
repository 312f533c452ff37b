"""How much of a message enters a node, from measurements: the gain of every module, and its carry.

A module's *gain* is the norm of J^T l over that of the message l on its output. Where gains are about one, as in
residual networks, messages arrive at any depth and their share may rise to all of the credit. Plain sigmoid units start
with gains of a sixth: over 15 modules nothing arrives, and the heads' own gradients must stay. As they train the
modules, the gains rise, and the messages' share with them.

The first update decides how fast the share may rise. Where its messages arrive, local credit is a warm-up: of `RISE`
updates, and no longer than every example is new. It pays in runs that see their data once or twice, and costs those
that pass over it often, so a run of more than `PASSES` passes has none. Where messages vanish, it is as long as the run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hbll_seq.rules.depth.repeats import Repeats

ARRIVES = 0.1  # of a message on its way through all modules: with less, heads stay
RISE = 400  # updates until all credit is the messages', where they arrive
PASSES = 3.0  # over the data: with more, local credit costs more than its head start gives
RECENT = 0.1  # weight of an update in the running averages


class Credit:
    """Running averages of the modules 2..M, and what follows from them.

    Args:
        passes: how often the run passes over its data.

    Attributes:
        gain: `(M - 1,)` norm of what leaves the module backwards over the norm of what entered; None before any update.
        carry: `(M - 1,)` the multiple of the message that comes nearest to what leaves, in 0..1.5.
        rising: updates since the first one, where its messages arrived, `RISE` once examples repeat or where they will
            often; None where messages did not arrive, or before it.
    """

    def __init__(self, passes: float = 1.0) -> None:
        self._start = RISE if passes > PASSES else 0
        self.gain: Tensor | None = None
        self.carry: Tensor | None = None
        self.rising: int | None = None
        self._repeats = Repeats()

    def look(self, x: Tensor) -> None:
        """Look at the inputs `(B, ...)` of an update before it: where they were trained on before, credit is whole."""
        watching = self.gain is None or (self.rising is not None and self.rising < RISE)
        if watching and self._repeats.again(x) and self.rising is not None:
            self.rising, watching = RISE, False
        if not watching:
            self._repeats.forget()

    def risen(self, progress: float) -> float:
        """Return how far credit has risen, 0 to 1: with the run's progress, or faster where messages arrive."""
        return progress if self.rising is None else max(progress, min(1.0, self.rising / RISE))

    def share(self, modules: int, like: Tensor) -> Tensor:
        """Return the largest discount of modules 2..M, `(M - 1,)`.

        It is 1 if a network of such modules lets a tenth of a message arrive, and falls with the gain below that.
        """
        if self.gain is None:
            return like.new_ones(modules - 1)
        return (self.gain / ARRIVES ** (1 / modules)).clamp(max=1.0).to(like)

    def carries(self, modules: int, like: Tensor) -> Tensor:
        """Return the carry of modules 2..M; identity before it was measured."""
        return like.new_ones(modules - 1) if self.carry is None else self.carry.to(like)

    def observe(self, messages: Sequence[Tensor], arrived: Sequence[Tensor]) -> None:
        """Learn from the messages on the outputs of modules 2..M, and what arrived at their inputs; `(B, ...)` each."""
        pairs = [(one.flatten(), other.flatten()) for one, other in zip(messages, arrived, strict=True)]
        size = torch.stack([one.dot(one) for one, _ in pairs]).clamp(min=1e-30)
        first = self.gain is None
        self.gain = _mixed(self.gain, (torch.stack([other.dot(other) for _, other in pairs]) / size).sqrt())
        self.carry = _mixed(self.carry, (torch.stack([a.dot(b) for a, b in pairs]) / size).clamp(0.0, 1.5))
        if first and float(self.gain.clamp(max=1.0).prod()) >= ARRIVES:
            self.rising = self._start
        if self.rising is not None:
            self.rising += 1

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured."""
        if self.gain is None or self.carry is None:
            return {}
        found = {"gain": self.gain, "carry": self.carry}
        return found if self.rising is None else found | {"rising": self.rising, "seen": self._repeats.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.gain, self.carry, self.rising = state.get("gain"), state.get("carry"), state.get("rising")
        self._repeats = Repeats(state.get("seen"))


def _mixed(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None or not bool(torch.isfinite(new).all()) else (1 - RECENT) * old.to(new) + RECENT * new
