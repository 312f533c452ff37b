"""One training run of a side, for `benchmarks.statetracking` and `benchmarks.chomsky`: phases, clock, held-out curve.

A side is a rule on a cell. "bptt" is backpropagation through time by this package's kernels, our own exact rival;
"torch" is the same by PyTorch's own layers (`nn.GRU`, `nn.LSTM`, `nn.RNN`), what a user has. All sides of a task have
the same initialisation (by the seed), data and order, updates, optimiser and learning rates.

Times are CPU seconds of one thread inside updates: other work on the machine distorts those least.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import hbll_seq as hs
from hbll_seq.data.batch import Batch

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "hbll": ("hbll", {}),
    "hbll, discount 1": ("hbll", {"discount": 1.0}),
    "bptt": ("bptt", {}),
    "torch": ("bptt", {"kernels": "torch"}),
    "tbptt": ("tbptt", {}),
}
Measure = Callable[[Any], dict[str, float]]  # of the model


class Phase(NamedTuple):
    """Sequences to train on, and how: updates at a peak rate that falls linearly to zero, gradients clipped."""

    data: hs.datasets.Sequences
    steps: int
    lr: float
    batch: int = 32
    clip: float = 1.0


class Clock:
    """CPU seconds inside updates, and held-out figures on the way."""

    def __init__(self, measure: Measure, every: int) -> None:
        self._measure, self._every = measure, every
        self.times: list[float] = []
        self.curve: list[dict[str, float]] = []

    @property
    def spent(self) -> float:
        return sum(self.times)

    def on_fit_begin(self, run: hs.History) -> None:
        self._mark = time.process_time()

    def on_step_end(self, run: hs.History, step: int) -> None:
        self.times.append(time.process_time() - self._mark)
        if len(self.times) % self._every == 0:
            self.curve.append({"step": len(self.times), "seconds": round(self.spent, 2), **self._measure(run.model)})
        self._mark = time.process_time()


def train(
    model: hs.models.SequenceModel, side: str, phases: list[Phase], seed: int, *, measure: Measure, every: int,
    **own: Any,
) -> tuple[dict[str, float], list[dict[str, float]]]:  # fmt: skip
    """Train through all phases; figures of the run (time, agreement with the chain), and the curve.

    `own` are further options of the rule.
    """
    name, options = RULES[side]
    clock, figures = Clock(measure, every), dict[str, float]()
    rule = hs.rules.make(name, **options, **own)
    for number, phase in enumerate(phases):
        before = len(clock.times)
        hs.fit(
            model, inputs(phase.data), phase.data.y, rule=rule, steps=phase.steps, batch_size=phase.batch, lr=phase.lr, seed=seed,
            progress=False, callbacks=[clock], clip=phase.clip,
        )  # fmt: skip
        figures[f"ms_{number + 1}"] = round(1e3 * statistics.median(clock.times[before:]), 3)
    figures |= {"seconds": round(clock.spent, 2), "ms": figures[f"ms_{len(phases)}"]}
    figures["chain_gap"] = gap(model, rule, rows(phases[-1].data, slice(phases[-1].batch)))
    return figures, clock.curve


def inputs(data: hs.datasets.Sequences) -> Any:
    return data.x if data.lengths is None else (data.x, data.lengths)


def rows(data: hs.datasets.Sequences, which: slice) -> Batch:
    x, y = data.x[which], data.y[which]
    lengths = torch.full((len(x),), x.shape[1]) if data.lengths is None else data.lengths[which]
    return Batch(x, lengths, y, y >= 0 if data.task == "step" and int(y.min()) < 0 else None)


def gap(model: hs.models.SequenceModel, rule: hs.rules.Rule, batch: Batch) -> float:
    """Difference between the loss that the rule reports of a batch and that of PyTorch's own chain, nats."""
    told = rule.step(model, batch, progress=1.0).loss
    model.zero_grad()
    with torch.enable_grad():  # with gradient the chain is PyTorch's layer, without it this package's compiled roll
        out = model(batch.x, batch.lengths)
    chain = functional.cross_entropy(out.flatten(0, -2), batch.y.flatten(), ignore_index=-100)
    return abs(told - float(chain.detach()))


@torch.no_grad()
def right(model: hs.models.SequenceModel, data: hs.datasets.Sequences, at_once: int = 32) -> Tensor:
    """Where the deployed chain answers right: `(n, T)`, or `(n,)` for one answer each; False where nothing is asked."""
    parts = [rows(data, slice(i, i + at_once)) for i in range(0, len(data), at_once)]
    return torch.cat([model(one.x, one.lengths).argmax(-1) == one.y for one in parts])
