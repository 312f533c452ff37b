"""A recurrent layer trained block by block: the autograd node that stands for one layer.

Forward solves the boundary states and rolls all blocks from them; backward solves the feedback
messages and differentiates every block on its own. No graph ever joins two blocks: what a block
gets from the others are two constants, its start state and the message at its end. In words of the
design, block i's objective is

    l_i + <F_i(h_i), stop(lambda_{i+1})> + pull * |F_i(h_i) - stop(h_{i+1})|^2 / 2

whose last two terms are, up to a constant, the squared distance to the posterior mean.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.scheduler import Depth, Level, from_blocks, to_blocks
from hbll_seq.solve import Effort, Feedback, States, solve_feedback, solve_states


@dataclass
class LayerPlan:
    """How to run one layer this step.

    Attributes:
        block: steps a block, K.
        sweeps, feedback: effort of the two loops.
        pull: weight of the consistency term (per boundary, before division by their number).
        jacobi: use G = 0 in the sweeps.
        group: blocks in flight, or None for all.
    """

    block: int
    sweeps: Effort
    feedback: Effort
    pull: float = 0.0
    jacobi: bool = False
    group: int | None = None
    scale: Tensor | None = None


@dataclass
class LayerRecord:
    """What happened in one layer in one step.

    Attributes:
        keep: set it to have `states` and `feedback` (and so all activations) kept after the step.
        statistics: per unit, sums over sweeps of predicted times seen change, and of predicted squared.
    """

    keep: bool = False
    depth: Depth = field(default_factory=Depth)
    residuals: list[float] = field(default_factory=list)
    sweeps: int = 0
    fallbacks: float = 0.0
    feedback_residuals: list[float] = field(default_factory=list)
    corrections: int = 0
    statistics: tuple[Tensor, Tensor] | None = None
    states: States | None = None
    feedback: Feedback | None = None


def run_layer(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: LayerPlan, record: LayerRecord
) -> Tensor:
    """Outputs `(B, T, d)` of a layer from inputs `(B, T, D)` and start state `(B, S)`, block-local in backward."""
    result = _BlockLocal.apply(x, state, cell, lengths, plan, record, *cell.parameters())
    assert isinstance(result, Tensor)
    return result


def valid_boundaries(steps: int, block: int, batch: int, lengths: Tensor | None, like: Tensor) -> Tensor:
    """`(n-1, B, 1)`: 1 where the boundary lies inside its sequence."""
    starts = torch.arange(block, max(steps, block), block)  # (n-1,)
    if lengths is None:
        return torch.ones(len(starts), batch, 1, dtype=like.dtype, device=like.device)
    return (starts[:, None] < lengths.cpu()[None]).to(like).unsqueeze(-1)


def solve_layer_states(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: LayerPlan, record: LayerRecord
) -> States:
    """Boundary states of a layer, without gradient."""
    xb = to_blocks(x.detach(), plan.block)  # (K, n, B, D)
    n, b = xb.shape[1], xb.shape[2]
    guess = state.new_zeros(n, b, cell.state_size)
    guess[0] = state.detach()
    sums = [torch.zeros(cell.memory_size, dtype=x.dtype, device=x.device) for _ in range(2)]

    def make(start: Tensor, keep: bool) -> Level:
        return Level(cell, xb, start, keep=keep, group=plan.group, depth=record.depth)

    def observe(start: Tensor, end: Tensor, carry: Tensor) -> None:
        predicted = carry * start[..., : cell.memory_size]
        sums[0] += (predicted * end[..., : cell.memory_size]).sum((0, 1))
        sums[1] += predicted.square().sum((0, 1))

    states = solve_states(
        cell, make, guess, valid_boundaries(x.shape[1], plan.block, b, lengths, x), plan.sweeps,
        jacobi=plan.jacobi, depth=record.depth, scale=plan.scale, observe=observe,
    )  # fmt: skip
    record.residuals, record.sweeps, record.fallbacks = states.residuals, states.sweeps, states.fallbacks
    record.statistics = (sums[0], sums[1])
    return states


class _BlockLocal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, lengths: Tensor | None,
        plan: LayerPlan, record: LayerRecord, *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        states = solve_layer_states(cell, x, state, lengths, plan, record)
        ctx.cell, ctx.plan, ctx.record, ctx.states, ctx.steps = cell, plan, record, states, x.shape[1]
        assert states.level.outputs is not None
        return from_blocks(states.level.outputs, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        plan, states, record = ctx.plan, ctx.states, ctx.record
        extra = None
        if plan.pull and states.gap.numel():
            n, b, _ = states.start.shape
            extra = torch.cat([states.gap, torch.zeros_like(states.gap[:1])]) * (plan.pull / (b * (n - 1)))
        feedback = solve_feedback(
            ctx.cell, states, to_blocks(grads[0], plan.block), None, plan.feedback, extra=extra, depth=record.depth
        )
        record.feedback_residuals, record.corrections = feedback.residuals, feedback.corrections
        if record.keep:
            record.states, record.feedback = states, feedback
        dx = None
        if ctx.needs_input_grad[0] and feedback.dx is not None:
            dx = from_blocks(feedback.dx, ctx.steps)
        ctx.states = None  # activations are not needed again
        return (dx, feedback.start, None, None, None, None, *feedback.parameters)
