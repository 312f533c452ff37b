"""A recurrent layer run block after block: the same objectives as `local.py`, boundaries exact by construction.

Rolling all blocks at once takes sweeps and corrections, about 2.3 times the arithmetic of one pass each way. That
pays where one block alone would leave the machine idle. Where a batch fills it anyhow (a large batch on two
cores) going through the blocks in order is faster: every state and message is exact when it is needed, so there is
nothing to sweep or correct. Depth is 2 T then, and the history says so; gradients are those of the parallel execution
at tolerance zero, discount included. The pieces are the cell's own fused rolls.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hbll_seq.batch import Batch
from hbll_seq.cells import Cell, Roll, SymbolCell, in_precision
from hbll_seq.local import LayerPlan, LayerRecord
from hbll_seq.local_loss import LocalLoss, add_gradients
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.scheduler import from_blocks, to_blocks


def run_chain(cell: Cell, x: Tensor, state: Tensor, plan: LayerPlan, record: LayerRecord) -> Tensor:
    """Outputs `(B, T, d)` of a layer from inputs `(B, T, D)` and start state `(B, S)`; arguments as for `run_layer`."""
    cell = in_precision(cell, plan.precision)
    result = _Chain.apply(x, state, cell, plan, record, *cell.parameters())
    assert isinstance(result, Tensor)
    return result


def step_chain(model: SequenceModel, batch: Batch, plan: LayerPlan, record: LayerRecord) -> tuple[float, Tensor | None]:
    """The whole step of a model of one layer, the loss taken block by block on the way back.

    Adds the batch's gradients to `.grad`; returns the mean loss and the mean loss of each block.
    """
    cell = in_precision(model.cells[0], plan.precision)
    x = batch.x
    if model.embedding is not None:
        cell, x = SymbolCell(cell, model.embedding.weight), x.unsqueeze(-1)
    rolls = _forward(cell, to_blocks(x.detach(), plan.block), cell.initial(len(x), model.readout.weight), plan, record)
    loss = LocalLoss(model, batch, plan.block)

    def dout(i: int) -> Tensor | None:
        outputs = rolls[i].outputs
        assert outputs is not None
        return loss(i, i + 1, outputs, True)

    _, _, parameters = _backward(rolls, dout, plan, record, inputs=False)
    record.depth.steps += 2 * x.shape[1]
    add_gradients(cell.parameters(), parameters)
    loss.accumulate()
    return loss.loss, loss.block_loss()


def _forward(cell: Cell, blocks: Tensor, h: Tensor, plan: LayerPlan, record: LayerRecord) -> list[Roll]:
    """Roll `(K, n, B, D)` from `(B, S)`."""
    rolls: list[Roll] = []
    for i in range(blocks.shape[1]):
        rolls.append(cell.roll(blocks[:, i], h, keep=True, carry=False))
        h = rolls[-1].end
    record.end, record.residuals = torch.stack([roll.end for roll in rolls]), [0.0]
    return rolls


def _backward(
    rolls: list[Roll], dout: Callable[[int], Tensor | None], plan: LayerPlan, record: LayerRecord, *, inputs: bool
) -> tuple[Tensor | None, list[Tensor], list[Tensor | None]]:
    """Messages and gradients, last block first; the rolls are let go one by one.

    Args:
        rolls: of all blocks.
        dout: gradient `(K, B, d)` on the outputs of a block, or None.
        plan: its discount is used.
        record: filled.
        inputs: whether the gradients on the inputs are wanted.

    Returns:
        Gradient on the start `(B, S)`; on the inputs of every block `(K, B, D)`, if wanted; on the parameters.
    """
    n, b = len(rolls), len(rolls[0].end)
    gamma = torch.as_tensor(plan.discount).to(rolls[0].end).expand(n, b, 1)
    message: Tensor | None = None  # on the state after block i
    total: list[Tensor | None] = []
    dx: list[Tensor] = []
    while rolls:
        entering = None if message is None else message * gamma[len(rolls) - 1]
        part = dout(len(rolls) - 1)
        roll = rolls.pop()  # its activations are not needed again
        message = roll.backward_state(part, entering)
        d_inputs, parameters = roll.gradients(inputs)
        if d_inputs is not None:
            dx.append(d_inputs.clone())  # may be a work buffer, about to be given back
        total = parameters if not total else [_add(p, q) for p, q in zip(total, parameters, strict=True)]
    record.feedback_residuals = [0.0]
    return message, dx[::-1], total


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, state: Tensor, cell: Cell, plan: LayerPlan, record: LayerRecord, *parameters: Tensor
    ) -> Tensor:
        blocks = to_blocks(x.detach(), plan.block)
        rolls = _forward(cell, blocks, state.detach(), plan, record)
        record.depth.steps += x.shape[1]
        ctx.rolls, ctx.plan, ctx.record, ctx.steps = rolls, plan, record, x.shape[1]
        return from_blocks(torch.stack([roll.outputs for roll in rolls if roll.outputs is not None], 1), x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dout = to_blocks(grads[0], ctx.plan.block)
        message, dx, total = _backward(
            ctx.rolls, lambda i: dout[:, i].contiguous(), ctx.plan, ctx.record, inputs=ctx.needs_input_grad[0]
        )
        ctx.record.depth.steps += ctx.steps
        whole = from_blocks(torch.stack(dx, 1), ctx.steps) if dx else None
        return (whole, message, None, None, None, *total)


def _add(p: Tensor | None, q: Tensor | None) -> Tensor | None:
    if p is None or q is None:
        return q if p is None else p
    return p + q
