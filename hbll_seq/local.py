"""A recurrent layer trained block by block: the autograd node that stands for one layer.

Forward solves the boundary states and rolls all blocks from them; backward solves the feedback
messages and differentiates every block on its own. No graph ever joins two blocks: what a block
gets from the others are two constants, its start state and the message at its end. In words of the
design, block i's objective is

    l_i + <F_i(h_i), stop(lambda_{i+1})> + pull * |F_i(h_i) - stop(h_{i+1})|^2 / 2

whose last two terms are, up to a constant, the squared distance to the posterior mean.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Captures, Cell, captured, in_precision
from hbll_seq.jump import Jump
from hbll_seq.scan import prefix_scan
from hbll_seq.scheduler import Depth, Level, Loss, from_blocks, to_blocks
from hbll_seq.solve import Effort, Feedback, States, solve_feedback, solve_states


@dataclass
class LayerPlan:
    """How to run one layer this step.

    Attributes:
        block: steps a block, K.
        sweeps, feedback: effort of the two loops.
        pull: weight of the consistency term (mean over boundaries, summed over units).
        discount: factor on the feedback message that enters a block at its end, a number or `(n, B, 1)`.
        own, learned: weights, `(M,)` or a number, of the cell's own and of the learned carry in G;
            0 and 0 are Jacobi sweeps.
        jump: the learned forward message: first guess of the boundaries, and the learned carry.
        group: blocks in flight, or None for all.
        precision: of the products inside blocks, see `cells.mixed`; states and messages are float32 with either.
        captures: where rolls recorded as CUDA graphs are kept (`cells.captured`), or None to launch them step by step.
    """

    block: int
    sweeps: Effort
    feedback: Effort
    pull: float = 0.0
    discount: float | Tensor = 1.0
    own: Tensor | float = 1.0
    learned: Tensor | float = 0.0
    jump: Jump | None = None
    group: int | None = None
    precision: str = "float32"
    captures: Captures | None = None


@dataclass
class LayerRecord:
    """What happened in one layer in one step.

    Attributes:
        keep: set it to have `states` and `feedback` (and so all activations) kept after the step.
        statistics: `(5, M)`, sums over sweeps and blocks, per unit, of the products p*p, p*q, q*q, p*e, q*e,
            where p, q are the changes of a block's end that the own and the learned carry
            predict and e the change that the roll showed.
        jump_loss: the jump's own objective, or NaN.
        end: `(n, B, S)` state at every block's end.
    """

    keep: bool = False
    depth: Depth = field(default_factory=Depth)
    residuals: list[float] = field(default_factory=list)
    sweeps: int = 0
    fallbacks: float = 0.0
    feedback_residuals: list[float] = field(default_factory=list)
    corrections: int = 0
    statistics: Tensor | None = None
    jump_loss: float = math.nan
    end: Tensor | None = None
    states: States | None = None
    feedback: Feedback | None = None


def run_layer(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: LayerPlan, record: LayerRecord
) -> Tensor:
    """Outputs `(B, T, d)` of a layer from inputs `(B, T, D)` and start state `(B, S)`, block-local in backward."""
    cell = captured(in_precision(cell, plan.precision), plan.captures)
    result = _BlockLocal.apply(x, state, cell, lengths, plan, record, *cell.parameters())
    assert isinstance(result, Tensor)
    return result


def valid_boundaries(steps: int, block: int, lengths: Tensor | None, like: Tensor) -> Tensor | None:
    """`(n-1, B, 1)`: 1 where the boundary lies inside its sequence; None where every one does."""
    last = (steps - 1) // block * block
    if lengths is None or int(lengths.min()) > last:
        return None
    starts = torch.arange(block, max(steps, block), block)  # (n-1,)
    return (starts[:, None] < lengths.cpu()[None]).to(like).unsqueeze(-1)


def solve_layer_states(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: LayerPlan, record: LayerRecord,
    *, outputs: bool = True,
) -> States:  # fmt: skip
    """Boundary states of a layer, without gradient; without `outputs` those are not kept either."""
    xb = to_blocks(x.detach(), plan.block, copy=plan.group is None)  # (K, n, B, D)
    n, b = xb.shape[1], xb.shape[2]
    guess = state.new_zeros(n, b, cell.state_size)
    guess[0] = state.detach()
    learned: Tensor | None = None
    if plan.jump is not None:
        with torch.no_grad():
            learned, write = plan.jump(xb)
            guess[1:, :, : cell.memory_size] = prefix_scan(learned, write, state[:, : cell.memory_size])[1:n]
            guess[1:] = cell.clamp(guess[1:])
    with torch.no_grad():  # once for all rolls; in groups each roll makes its own, to keep memory small
        projected = cell.projected(xb) if plan.group is None and cell.projects_first() else None
    products = state.new_zeros(5, cell.memory_size)

    def make(start: Tensor, keep: bool) -> Level:
        return Level(
            cell, xb, start, keep=keep, group=plan.group, depth=record.depth, projected=projected, store=outputs
        )

    def carry_of(own: Tensor) -> Tensor:
        return own * plan.own if learned is None else own * plan.own + learned * plan.learned

    def observe(start: Tensor, end: Tensor, own: Tensor) -> None:
        m = cell.memory_size
        p, e = own * start[..., :m], end[..., :m]
        rows = {0: (p, p), 3: (p, e)}
        if learned is not None:
            q = learned[1:] * start[..., :m]
            rows |= {1: (p, q), 2: (q, q), 4: (q, e)}
        for row, (one, two) in rows.items():
            products[row] += (one * two).sum((0, 1))

    valid = valid_boundaries(x.shape[1], plan.block, lengths, state)
    states = solve_states(cell, make, guess, valid, plan.sweeps, depth=record.depth, carry_of=carry_of, observe=observe)
    if plan.jump is not None and plan.jump.training and n > 1:
        with torch.enable_grad():
            m = cell.memory_size
            a, write = plan.jump(xb[:, :-1])
            loss = plan.jump.objective(a, write, states.start[:-1, :, :m], states.level.end[:-1, :, :m])
            loss.backward()
            record.jump_loss = float(loss.detach())
    record.residuals, record.sweeps, record.fallbacks = states.residuals, states.sweeps, states.fallbacks
    record.statistics, record.end = products, states.level.end
    return states


def solve_layer_feedback(
    cell: Cell, states: States, dout: Tensor | Loss | None, plan: LayerPlan, record: LayerRecord, *, inputs: bool
) -> Feedback:
    """Feedback messages and gradients of a layer; arguments as for `solve_feedback`."""
    extra = None
    if plan.pull and states.gap.numel():
        n, b, _ = states.start.shape
        extra = torch.cat([states.gap, torch.zeros_like(states.gap[:1])]) * (plan.pull / (b * (n - 1)))
    feedback = solve_feedback(
        cell, states, dout, None, plan.feedback,
        extra=extra, depth=record.depth, discount=plan.discount, inputs=inputs,
    )  # fmt: skip
    record.feedback_residuals, record.corrections = feedback.residuals, feedback.corrections
    return feedback


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
        dout = to_blocks(grads[0], plan.block)
        feedback = solve_layer_feedback(ctx.cell, states, dout, plan, record, inputs=ctx.needs_input_grad[0])
        if record.keep:
            record.states, record.feedback = states, feedback
        else:
            states.level.release()
        dx = None
        if ctx.needs_input_grad[0] and feedback.dx is not None:
            dx = from_blocks(feedback.dx, ctx.steps)
        ctx.states = None  # activations are not needed again
        return (dx, feedback.start, None, None, None, None, *feedback.parameters)
