"""A recurrent layer trained block by block: the autograd node that stands for one layer.

Forward solves the boundary states and rolls all blocks from them; backward solves the feedback
messages and differentiates every block on its own. No graph ever joins two blocks: a block
gets two constants from the others, its start state and the message at its end. Block i's objective
(docs/method.md#the-probabilistic-reading) is

    l_i + <F_i(h_i), stop(lambda_{i+1})> + pull * |F_i(h_i) - stop(h_{i+1})|^2 / 2

whose last two terms are, up to a constant, the squared distance to the posterior mean.

The plan's `execution` is the schedule. "parallel" sweeps until the boundaries agree. If they do not converge, or with
"exact-forward", one roll in order gives them exactly. Messages are solved for all blocks at once. If they do not
converge, the update runs the layer in order instead, as "sequential" always does.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell, captured, in_precision
from hbll_seq.engine.block_loss import BlockLoss
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth, discounts, from_blocks, to_blocks, valid_boundaries
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.engine.sequential import Amplification, InOrder, exact_starts
from hbll_seq.engine.solve import Effort, Feedback, States, solve_feedback, solve_states


def run_layer(cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: Plan, record: Record) -> Tensor:
    """Run a layer from inputs `(B, T, D)` and start `(B, S)`: outputs `(B, T, d)`, differentiated block by block."""
    cell = captured(in_precision(cell, plan.precision), plan.captures)
    node = _InOrderNode if plan.execution == "sequential" else _BlocksNode
    result = node.apply(x, state, cell, lengths, plan, record, *cell.parameters())
    assert isinstance(result, Tensor)
    return result


def solve_layer_states(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: Plan, record: Record, *, outputs: bool = True
) -> States:
    """Solve for a layer's boundary states, without gradient; without `outputs` the layer's outputs are not kept."""
    xb = to_blocks(x.detach(), plan.block, copy=plan.group is None)  # (K, n, B, D)
    n, b = xb.shape[1], xb.shape[2]
    with torch.no_grad():  # once for all rolls; in groups each roll makes its own, to keep memory small
        projected = cell.projected(xb) if plan.group is None and cell.projects_first() else None

    def make(start: Tensor, keep: bool) -> BlockRoll:
        return BlockRoll(
            cell, xb, start, keep=keep, group=plan.group, depth=record.depth, projected=projected, store=outputs
        )

    products = state.new_zeros(2, cell.memory_size)

    def observe(start: Tensor, end: Tensor, own: Tensor) -> None:
        m = cell.memory_size
        p, e = own * start[..., :m], end[..., :m]
        products[0] += (p * p).sum((0, 1))
        products[1] += (p * e).sum((0, 1))

    states: States | None = None
    valid = valid_boundaries(x.shape[1], plan.block, lengths, state)
    if plan.execution == "parallel":
        guess = state.new_zeros(n, b, cell.state_size)
        guess[0] = state.detach()
        states = solve_states(
            cell, make, guess, valid, plan.sweeps,
            depth=record.depth, carry_of=lambda own: own * plan.own, observe=observe,
        )  # fmt: skip
        record.residuals, record.sweeps, record.fallbacks = states.residuals, states.sweeps, states.fallbacks
        record.statistics, record.ran = products, "parallel"
        record.boundaries = _found(states.converged, exact=states.sweeps >= n - 1)
    if states is None or not (states.converged or plan.sweeps.fixed):
        if states is not None:
            record.gave_up.append("states")
            states.roll.let_go()  # its activations are from wrong boundaries
        in_time = x.detach().transpose(0, 1).contiguous()
        start = exact_starts(cell, in_time, xb, state.detach(), plan.block)
        record.depth.steps += (n - 1) * plan.block
        states = solve_states(
            cell, make, start, valid, Effort(0, 0, 0.0, fixed=True), depth=Depth(), carry_of=lambda own: own * plan.own
        )
        record.depth.steps += plan.block
        record.residuals = [*record.residuals, states.residuals[0]]
        # a cell with random draws rolls differently every time: its boundaries fit no other roll
        fits = not states.residuals[0] > plan.sweeps.tolerance
        record.ran, record.boundaries = "exact-forward", "exact" if fits else "forced"
    record.end = states.roll.end
    return states


def solve_layer_feedback(
    cell: Cell, states: States, dout: Tensor | BlockLoss | None, plan: Plan, record: Record, steps: int, *, inputs: bool
) -> Feedback | None:
    """Solve for a layer's feedback messages and gradients; None where they do not converge. See `solve_feedback`."""
    extra = None
    if isinstance(plan.own, float) and plan.own == 0:  # Jacobi: no carry here either
        states = states._replace(carry=torch.zeros_like(states.carry))
    n, b, _ = states.start.shape
    if plan.pull and states.gap.numel():
        extra = torch.cat([states.gap, torch.zeros_like(states.gap[:1])]) * (plan.pull / (b * (n - 1)))
    feedback = solve_feedback(
        cell, states, dout, None, plan.feedback, extra=extra, depth=record.depth,
        discount=discounts(plan.discount, plan.credit_block, plan.block, steps, b), inputs=inputs,
    )  # fmt: skip
    record.feedback_residuals, record.corrections = feedback.residuals, feedback.corrections
    record.messages = _found(feedback.converged, exact=feedback.corrections >= n - 2)
    if feedback.converged or plan.feedback.fixed:
        if plan.probe and isinstance(dout, Tensor):
            probe = Amplification()
            probe.add(dout, feedback.messages[1:].contiguous())
            record.amplification = probe.result()
        return feedback
    record.gave_up.append("messages")
    return None


def _found(converged: bool, *, exact: bool) -> str:
    return "exact" if exact else "within tolerance" if converged else "forced"


class _BlocksNode(torch.autograd.Function):
    """An autograd node for all blocks at once: forward states, backward messages."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, lengths: Tensor | None, plan: Plan, record: Record,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        states = solve_layer_states(cell, x, state, lengths, plan, record)
        ctx.cell, ctx.plan, ctx.record, ctx.states, ctx.given = cell, plan, record, states, (x.detach(), state.detach())
        assert states.roll.outputs is not None
        return from_blocks(states.roll.outputs, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        plan, states, record, (x, state) = ctx.plan, ctx.states, ctx.record, ctx.given
        steps, inputs = x.shape[1], ctx.needs_input_grad[0]
        dout = to_blocks(grads[0], plan.block)
        ctx.states = None  # activations are not needed again
        try:
            feedback = solve_layer_feedback(ctx.cell, states, dout, plan, record, steps, inputs=inputs)
        finally:
            if not record.keep:
                states.roll.release()
        if record.keep:
            record.states, record.feedback = states, feedback
        if feedback is None:
            in_order = InOrder(ctx.cell, x.transpose(0, 1).contiguous(), state, plan, record, outputs=False)
            start, dx, parameters = _pull_back(in_order, grads[0], inputs)
        else:
            start, parameters = feedback.start, feedback.parameters
            dx = from_blocks(feedback.dx, steps) if inputs and feedback.dx is not None else None
        return (dx, start, None, None, None, None, *parameters)


class _InOrderNode(torch.autograd.Function):
    """An autograd node for time steps in order, each way in one call if the cell has one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, lengths: Tensor | None, plan: Plan, record: Record,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.in_order = InOrder(cell, x.detach().transpose(0, 1).contiguous(), state, plan, record)
        outputs: Tensor = ctx.in_order.outputs  # a view on a work buffer, gone with the release: always a copy
        return outputs.transpose(0, 1).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        start, dx, parameters = _pull_back(ctx.in_order, grads[0], ctx.needs_input_grad[0])
        ctx.in_order = None
        return (dx, start, None, None, None, None, *parameters)


def _pull_back(in_order: InOrder, dout: Tensor, inputs: bool) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """Return gradients on start, inputs `(B, T, D)` and parameters from that on the outputs `(B, T, d)`."""
    in_time = dout.transpose(0, 1).contiguous()
    with in_order:
        start, dx, parameters = in_order.backward(lambda first, stop, _: in_time[first:stop], inputs=inputs)
    return start, None if dx is None else dx.transpose(0, 1), parameters
