"""`smt`: training without recurrence on one-step pairs (after Kumar and Isola, arXiv:2606.06479).

A teacher gives every time step t a memory m_t (`teacher.py`). The cell learns from pairs: from m_{t-1} and x_t it
makes a state near m_t, and the model's own read-out predicts from that state. All pairs of a window are one parallel
call, and no graph joins two time steps. In the last part of a run the cell is rolled instead, from its own states, and
every state is differentiated on its own and pulled to the teacher's memory of that time
(docs/method.md#a-teachers-memories).
"""

import time
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.scalars import integer, number, positive
from hbll_seq.errors import InputError
from hbll_seq.losses import objective
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.teacher import Teacher, by_cell, uniformity


@register
class SMT(Rule[SequenceModel]):
    """Supervised memory training: one-step pairs from a Transformer, then rolls (docs/method.md#a-teachers-memories).

    Sizes are for models of about 128 units. `dynamics` was published as 0.1, `every` as 16, for runs of 150,000
    updates; runs of hundreds need more (docs/notes/2026-11-29-smt.md). The loss in the history is that of the pairs,
    not the deployed chain's; validation scores the chain. `teacher_seconds` there is CPU time. In a loop of your own
    pass `progress`: left out it is 1, the phase of rolls.

    Args:
        teacher: width of the teacher.
        teacher_layers: its Transformer blocks.
        decoder_layers: Transformer blocks of the decoder.
        heads: attention heads of both; they divide the width.
        teacher_rate: learning rate of the teacher, in units of the run's.
        future: time steps that a memory is decoded over.
        dynamics: weight of the squared error between the cell's states and the teacher's memories.
        spread: weight of the uniformity of memories.
        rolled: last share of the run, in which the cell is rolled.
        every: time steps between two rolled states that are pulled; at most the window's.
        rolled_pull: weight of the squared error there.

    Attributes:
        network: the teacher, after `setup`; trained beside the model, not needed to deploy it.

    Raises:
        InputError: an option out of range; in `setup`, a model that is not a plain causal one of cells with bounded
            outputs; in `step`, a start state.
    """

    name = "smt"

    def __init__(
        self, teacher: int = 128, *, teacher_layers: int = 2, decoder_layers: int = 1, heads: int = 4,
        teacher_rate: float = 0.25, future: int = 64, dynamics: float = 10.0, spread: float = 0.001,
        rolled: float = 0.1, every: int = 4, rolled_pull: float = 10.0,
    ) -> None:  # fmt: skip
        self.teacher, self.heads = integer("teacher", teacher), integer("heads", heads)
        if self.teacher % self.heads:
            raise InputError("heads", self.heads, f"a divisor of the teacher's width, {self.teacher}")
        self.teacher_layers = integer("teacher_layers", teacher_layers)
        self.decoder_layers = integer("decoder_layers", decoder_layers)
        self.teacher_rate = self.rate = positive("teacher_rate", teacher_rate)
        self.future, self.every = integer("future", future), integer("every", every)
        self.dynamics, self.spread = number("dynamics", dynamics), number("spread", spread)
        self.rolled, self.rolled_pull = number("rolled", rolled, most=1.0), number("rolled_pull", rolled_pull)
        self.network: Teacher | None = None
        self._updates = 0

    def setup(self, model: SequenceModel, generator: torch.Generator) -> None:
        """Make the teacher; see `Rule.setup`."""
        if not isinstance(model, SequenceModel) or model.own_loss is not None:
            own = isinstance(model.inner, SequenceModel) and model.inner is not model
            came = f"'smt' for a {type(model.inner).__name__}" + (
                " with loss=, metrics= or sample_weight=" if own else ""
            )
            raise InputError("rule", came, "a SequenceModel of this package, and its own objective")
        if model.bidirectional:
            raise InputError("rule", "'smt' for a bidirectional model", "one direction: memories are of the past")
        for cell in model.cells:
            if cell.bound != 1.0:
                came = f"'smt' for a {type(cell).__name__} without a bound"
                raise InputError("rule", came, "cells whose outputs lie in -1 to 1: GRU, LSTM, Elman with tanh")
        like = model.readout.weight
        with SeededDraws(int(torch.randint(2**62, (), generator=generator))):
            made = Teacher(model, self.teacher, self.teacher_layers, self.decoder_layers, self.heads)
        self.network, self._updates = made.to(like.device, like.dtype), 0

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the teacher; see `Rule.parameters`."""
        return [] if self.network is None else list(self.network.parameters())

    def step(self, model: SequenceModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        if self.network is None:
            raise InputError("rule", "smt before setup(model, generator)", "a rule that fit has set up")
        if batch.state is not None:
            raise InputError("batch.state", "a start state, with rule 'smt'", "None: the teacher reads whole windows")
        began = time.process_time()
        rolls = progress >= 1 - self.rolled
        cells = model.cells
        with torch.set_grad_enabled(not rolls):
            memories = self.network.memories(batch.x, cells)
        labels = memories.detach().requires_grad_(not rolls)
        metrics = {"rolled": float(rolls), "teacher_parameters": float(sum(p.numel() for p in self.parameters()))}
        if rolls:
            seconds = time.process_time() - began
            loss, error = self._rolls(model, batch, labels)
            (loss + self.rolled_pull * error).backward()
        else:
            taught, figures = self._predictive(model, batch, memories)
            metrics |= figures
            seconds = time.process_time() - began
            loss, error = self._pairs(model, batch, labels)
            (loss + self.dynamics * error).backward()
            began = time.process_time()
            assert labels.grad is not None
            torch.autograd.backward([memories, taught], [labels.grad, torch.ones_like(taught)])
            seconds += time.process_time() - began
        self._updates += 1
        depth = (batch.x.shape[1] if rolls else 0) + 2.0 * len(cells)  # the cell's own; the teacher's does not grow
        metrics |= {"dynamics": float(error.detach()), "teacher_seconds": seconds, "depth": depth}
        return StepResult(float(loss.detach()), metrics)

    def _predictive(self, model: SequenceModel, batch: Batch, memories: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the teacher's own losses, weighed, and their figures.

        The memories that are decoded move on by one time step an update, so that all get their turn.
        """
        assert self.network is not None
        steps = batch.x.shape[1]
        future = min(self.future, steps)
        first = self._updates % future
        out = self.network.futures(memories, batch.x, first, future)
        predictive = objective(model.objective, out, ahead(batch, first, model.task == "sequence"))[0]
        inside = counted(batch)[:, first::future]
        uniform = uniformity(memories[:, first::future][inside])
        return predictive + self.spread * uniform, {
            "predictive": float(predictive.detach()),
            "uniformity": float(uniform.detach()),
        }

    def _pairs(self, model: SequenceModel, batch: Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's loss and the dynamics error of all one-step pairs, with gradient to cell and memories."""
        wanted, errors = by_cell(labels, model.cells), list[Tensor]()
        count = counted(batch)

        def execute(
            layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
        ) -> tuple[Tensor, None]:
            label = wanted[layer]
            before = torch.cat([state[:, None], label[:, :-1]], 1)
            new = one_step(cell, x, before)
            errors.append((new - label)[count].square().mean())
            return cell.output(new), None

        return self._loss(model, batch, execute), torch.stack(errors).mean()

    def _rolls(self, model: SequenceModel, batch: Batch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the error of rolled states: no gradient from step to step or from layer to layer."""
        wanted, errors = by_cell(labels, model.cells), list[Tensor]()
        every = min(self.every, batch.x.shape[1])
        at = slice(every - 1, None, every)
        count = counted(batch)[:, at]

        def execute(
            layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
        ) -> tuple[Tensor, None]:
            states = rolled_states(cell, x, state)
            if bool(count.any()):
                new = one_step(cell, x[:, at], torch.cat([state[:, None], states[:, :-1]], 1)[:, at])
                errors.append((new - wanted[layer][:, at])[count].square().mean())
            return cell.output(states), None

        loss = self._loss(model, batch, execute)
        return loss, torch.stack(errors).mean() if errors else loss.new_zeros(())

    def _loss(self, model: SequenceModel, batch: Batch, execute: Any) -> Tensor:
        with model.update_by(execute, batch.x):
            return model.training_loss(batch, execute)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher's weights and the number of updates, which says what memories are decoded next."""
        weights = {} if self.network is None else self.network.state_dict()
        return {"updates": self._updates, "teacher": {k: v.detach().clone() for k, v in weights.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them (after `setup`)."""
        self._updates = int(state["updates"])
        if self.network is not None:
            self.network.load_state_dict(state["teacher"])


def one_step(cell: Cell, x: Tensor, before: Tensor) -> Tensor:
    """Return the states `(B, T, S)` after one time step each from `before` `(B, T, S)` on inputs `(B, T, D)`."""
    rows = cell.step(x.flatten(0, 1), before.flatten(0, 1))
    return rows.view(before.shape)


@torch.no_grad()
def rolled_states(cell: Cell, x: Tensor, state: Tensor) -> Tensor:
    """Return the state after every time step of the sequential chain, `(B, T, S)`, without gradient."""
    if cell.state_size == cell.hidden_size:
        return cell.deployed(x, state)[0]
    states = []
    for now in cell.project(x).unbind(1):
        state = cell.advance(now, state).state
        states.append(state)
    return torch.stack(states, 1)


def counted(batch: Batch) -> Tensor:
    """Return `(B, T)` bool: True within each sequence's length."""
    inside = torch.arange(batch.x.shape[1])[None] < batch.lengths[:, None]
    return inside.to(batch.x.device)


def ahead(batch: Batch, first: int, whole: bool) -> Batch:
    """Return the targets from time step `first` on; one target of a whole sequence stands at each of its time steps."""
    inside = counted(batch)[:, first:]
    if not whole:
        mask = None if batch.mask is None else batch.mask[:, first:]
        return batch._replace(y=batch.y[:, first:], mask=mask)
    y = batch.y.unsqueeze(1).expand(-1, inside.shape[1], *batch.y.shape[1:])
    return batch._replace(y=y, mask=inside)
