"""A recurrent layer trained block by block: the autograd node that stands for one layer.

Forward solves the boundary states and rolls all blocks from them; backward solves the feedback messages and
differentiates every block on its own. No graph ever joins two blocks: a block gets two constants from the others, its
start state and the message at its end. Block i's objective (docs/method.md#the-probabilistic-reading) is

    l_i + <F_i(h_i), stop(lambda_{i+1})> + pull * |F_i(h_i) - stop(h_{i+1})|^2 / 2

whose last two terms are, up to a constant, the squared distance to the posterior mean.

The plan's `execution` is the schedule. "parallel" sweeps until the boundaries agree. If they do not converge, or with
"exact-forward", one roll in order gives them exactly. Messages are solved for all blocks at once. If they do not
converge, the update runs the layer in order instead, as "sequential" always does.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell, captured, filled, in_precision
from hbll_seq.engine.block_loss import BlockLoss
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth, discounts, from_blocks, to_blocks, valid_boundaries
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.engine.sequential import Amplification, InOrder, exact_starts
from hbll_seq.engine.solve import Feedback, States, solve_feedback, solve_states

TWICE = "this layer's backward pass has no graph: second derivatives need PyTorch's own layer (hs.revert)"


def run_layer(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, plan: Plan, record: Record, *, end: bool = False
) -> tuple[Tensor, Tensor]:
    """Run a layer, differentiated block by block.

    Args:
        cell: the layer's cell.
        x: `(B, T, D)`.
        state: `(B, S)` start.
        lengths: `(B,)` valid time steps, or None for all.
        plan, record: orders, and the report to fill.
        end: whether the state after the last time step is wanted.

    Returns:
        Outputs `(B, T, d)`, and with `end` the state `(B, S)` after time step T, with gradient (but for the memory of a
        wrapped LSTM whose last block is not full).
    """
    steps = x.shape[1]
    if plan.execution == "pytorch":
        outputs, last = cell.sequence(x, state)
        record.in_order("pytorch", 2 * steps, last.detach())
        return outputs, last
    apart = cell.state_size > cell.hidden_size  # the state is not among the outputs
    partial = apart and end and plan.execution != "sequential" and bool(steps % plan.block)
    full = filled(cell, x, -(-steps // plan.block) * plan.block) if partial else None
    if full is not None:
        (cell, x), lengths = full, None
    run = captured(in_precision(cell, plan.precision), plan.captures)
    node = _InOrderNode if plan.execution == "sequential" else _BlocksNode
    outputs, last = node.apply(x, state, run, lengths, plan, record, *run.parameters())
    outputs = outputs[:, :steps]
    if not apart and plan.execution != "sequential":  # in order the node has it: no gradient of T steps for one
        last = outputs[:, -1]
    elif full is not None:  # the memory after padding, the visible part before it
        last = torch.cat([last[:, : cell.memory_size], outputs[:, -1]], 1)
    elif partial:
        last = last_state(cell, x, record)
    return outputs, last


def last_state(cell: Cell, x: Tensor, record: Record) -> Tensor:
    """Return the state after the last time step of a layer that was run, without gradient.

    A last block that is not full ends in padding; it is rolled once more.
    """
    if record.last is not None:
        return record.last
    assert record.start is not None
    first, start = record.start
    with cell.roll(x[:, first:].transpose(0, 1).contiguous(), start, keep=False, carry=False) as roll:
        return roll.end


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
    record.end, record.start = states.roll.end, ((n - 1) * plan.block, states.start[-1])
    record.last = None if x.shape[1] % plan.block else states.roll.end[-1]
    return states


def solve_layer_feedback(
    cell: Cell, states: States, dout: Tensor | BlockLoss | None, plan: Plan, record: Record, steps: int, *,
    inputs: bool, dend: Tensor | None = None,
) -> Feedback | None:  # fmt: skip
    """Solve for a layer's feedback messages and gradients; None where they do not converge.

    Arguments as for `solve_feedback`; `dend` `(B, S)` is the gradient on the state after the last block.
    """
    extra = None
    if isinstance(plan.own, float) and plan.own == 0:  # Jacobi: no carry here either
        states = states._replace(carry=torch.zeros_like(states.carry))
    n, b, _ = states.start.shape
    if plan.pull and states.gap.numel():
        extra = torch.cat([states.gap, torch.zeros_like(states.gap[:1])]) * (plan.pull / (b * (n - 1)))
    feedback = solve_feedback(
        cell, states, dout, dend, plan.feedback, extra=extra, depth=record.depth,
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


class _LayerNode(torch.autograd.Function):
    """The shared part of both nodes: what is saved, and what a backward pass returns.

    Inputs and weights are saved in autograd's way: it refuses a backward pass after a change in place, and after the
    graph was freed. Activations are let go with the first backward pass. Another one (`retain_graph=True`) runs the
    layer again. So does the first one where what is saved goes elsewhere or nowhere (`torch.utils.checkpoint`).
    """

    @staticmethod
    def keep(ctx: Any, x: Tensor, state: Tensor, parameters: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, state, *parameters)

    @staticmethod
    def elsewhere() -> bool:
        return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None

    @staticmethod
    def gradients(ctx: Any, dx: Tensor | None, start: Tensor | None, parameters: list[Tensor | None]) -> Any:
        found = [dx, start, *parameters]
        if torch.is_grad_enabled():  # create_graph=True
            found = [g if g is None else _Once.apply(g.detach().requires_grad_()) for g in found]
        return (*found[:2], None, None, None, None, *found[2:])


class _BlocksNode(_LayerNode):
    """An autograd node for all blocks at once: forward states, backward messages."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, lengths: Tensor | None, plan: Plan, record: Record,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        _LayerNode.keep(ctx, x, state, parameters)
        states = solve_layer_states(cell, x, state, lengths, plan, record)
        ctx.given, ctx.states = (cell, lengths, plan, record), states
        assert states.roll.outputs is not None
        outputs = from_blocks(states.roll.outputs, x.shape[1]).data  # autograd lets no caller change a view in place
        end = states.roll.end[-1].clone()
        if _LayerNode.elsewhere() and not record.keep:
            ctx.states.roll.release()
            ctx.states = None
        return outputs, end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, state, *parameters = ctx.saved_tensors
        cell, lengths, plan, record = ctx.given
        steps, inputs, (dout, dend) = x.shape[1], ctx.needs_input_grad[0], grads
        with torch.no_grad():
            states, ctx.states = ctx.states, None  # activations are not needed again
            if states is None:
                record = Record() if record.feedback_residuals else record
                states = solve_layer_states(cell, x, state, lengths, plan, record)
            try:
                given = None if dout is None else to_blocks(dout, plan.block)
                feedback = solve_layer_feedback(cell, states, given, plan, record, steps, inputs=inputs, dend=dend)
            finally:
                if not record.keep:
                    states.roll.release()
            if record.keep:
                record.states, record.feedback = states, feedback
            if feedback is None:
                in_order = InOrder(cell, x.transpose(0, 1).contiguous(), state, plan, record, outputs=False)
                start, dx, found = _pull_back(in_order, dout, dend, inputs)
            else:
                start, found = feedback.start, feedback.parameters
                dx = from_blocks(feedback.dx, steps) if inputs and feedback.dx is not None else None
        return _LayerNode.gradients(ctx, dx, start, found)


class _InOrderNode(_LayerNode):
    """An autograd node for time steps in order, each way in one call if the cell has one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, lengths: Tensor | None, plan: Plan, record: Record,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        _LayerNode.keep(ctx, x, state, parameters)
        ctx.given = cell, plan
        ctx.in_order = InOrder(cell, x.detach().transpose(0, 1).contiguous(), state, plan, record)
        # a view on a work buffer, gone with the release: always a copy
        outputs: Tensor = ctx.in_order.outputs.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        end = ctx.in_order.end.clone()
        if _LayerNode.elsewhere():
            ctx.in_order.release()
            ctx.in_order = None
        return outputs, end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, state, *parameters = ctx.saved_tensors
        with torch.no_grad():
            in_order, ctx.in_order = ctx.in_order, None
            if in_order is None:
                cell, plan = ctx.given
                in_order = InOrder(cell, x.transpose(0, 1).contiguous(), state, plan, Record(), outputs=False)
            dout, dend = grads
            start, dx, found = _pull_back(in_order, dout, dend, ctx.needs_input_grad[0])
        return _LayerNode.gradients(ctx, dx, start, found)


class _Once(torch.autograd.Function):
    """Gradients that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(TWICE)


def _pull_back(
    in_order: InOrder, dout: Tensor | None, dend: Tensor | None, inputs: bool
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """Return gradients on start, inputs `(B, T, D)` and parameters from those on outputs `(B, T, d)` and end."""
    in_time = None if dout is None else dout.transpose(0, 1).contiguous()

    def given(first: int, stop: int, _: Tensor) -> Tensor | None:
        return None if in_time is None else in_time[first:stop]

    with in_order:
        start, dx, parameters = in_order.backward(given, dend, inputs=inputs)
    return start, None if dx is None else dx.transpose(0, 1), parameters
