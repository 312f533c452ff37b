"""A recurrent layer run block after block: the same objectives as `local.py`, boundaries exact by construction.

Rolling all blocks at once takes sweeps and corrections, about 2.3 times the arithmetic of one pass each way. That
pays where one block alone would leave the machine idle. Where a batch fills it anyhow (a large batch on two
cores) going through the blocks in order is faster: every state and message is exact when it is needed, so there is
nothing to sweep or correct. Depth is 2 T then, and the history says so; gradients are those of the parallel execution
at tolerance zero, discount included. The pieces are the cell's own fused rolls.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell, Roll
from hbll_seq.local import LayerPlan, LayerRecord
from hbll_seq.scheduler import from_blocks, to_blocks


def run_chain(cell: Cell, x: Tensor, state: Tensor, plan: LayerPlan, record: LayerRecord) -> Tensor:
    """Outputs `(B, T, d)` of a layer from inputs `(B, T, D)` and start state `(B, S)`; arguments as for `run_layer`."""
    result = _Chain.apply(x, state, cell, plan, record, *cell.parameters())
    assert isinstance(result, Tensor)
    return result


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, plan: LayerPlan, record: LayerRecord, *parameters: Tensor
    ) -> Tensor:
        if isinstance(plan.discount, float) and plan.discount == 1.0:
            plan.block = x.shape[1]  # nothing happens at the boundaries
        blocks = to_blocks(x.detach(), plan.block)  # (K, n, B, D)
        k, n, b, _ = blocks.shape
        outputs = state.new_empty(k, n, b, cell.hidden_size)
        rolls: list[Roll] = []
        ends = []
        h = state.detach()
        for i in range(n):
            roll = cell.roll(blocks[:, i], h, keep=True, carry=False)
            assert roll.outputs is not None
            outputs[:, i] = roll.outputs
            h = roll.end
            rolls.append(roll)
            ends.append(h)
        record.end, record.residuals = torch.stack(ends), [0.0]
        record.depth.steps += x.shape[1]
        ctx.rolls, ctx.plan, ctx.record, ctx.steps = rolls, plan, record, x.shape[1]
        return from_blocks(outputs, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rolls, plan = ctx.rolls, ctx.plan
        dout = to_blocks(grads[0], plan.block)
        n, b = dout.shape[1], dout.shape[2]
        gamma = torch.as_tensor(plan.discount).to(dout).expand(n, b, 1)
        message: Tensor | None = None  # on the state after block i
        total: list[Tensor | None] = []
        dx: list[Tensor | None] = [None] * n
        for i in range(n - 1, -1, -1):
            entering = None if message is None else message * gamma[i]
            message = rolls[i].backward_state(dout[:, i].contiguous(), entering)
            inputs, parameters = rolls[i].gradients(ctx.needs_input_grad[0])
            dx[i] = None if inputs is None else inputs.clone()  # may be a work buffer, about to be given back
            total = parameters if not total else [_add(p, q) for p, q in zip(total, parameters, strict=True)]
            rolls[i] = None  # activations are not needed again
        ctx.record.feedback_residuals = [0.0]
        ctx.record.depth.steps += ctx.steps
        ctx.rolls = None
        whole = None
        if ctx.needs_input_grad[0] and dx[0] is not None:
            whole = from_blocks(torch.stack([one for one in dx if one is not None], 1), ctx.steps)
        return (whole, message, None, None, None, *total)


def _add(p: Tensor | None, q: Tensor | None) -> Tensor | None:
    if p is None or q is None:
        return q if p is None else p
    return p + q
