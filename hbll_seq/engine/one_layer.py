"""A model of one layer trained with its loss inside the level: no autograd graph from outputs to loss, no copies.

The same fixed points as `engine.layer`, with the loss taken where the blocks are (`block_loss.py`). In groups what is
kept of the whole sequence is the input, the targets and the boundaries, so memory is that of a few blocks whatever the
length; every pass rolls its blocks again, which costs one forward roll more a pass.
"""

from torch import Tensor, nn

from hbll_seq.cells import Cell, captured, in_precision
from hbll_seq.data.batch import Batch
from hbll_seq.engine.block_loss import BlockLoss, add_gradients
from hbll_seq.engine.layer import solve_layer_feedback, solve_layer_states
from hbll_seq.engine.level import Loss
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.engine.sequential import InOrder


class Head:
    """What is asked of a layer's outputs.

    Args:
        readout: from hidden outputs to predictions.
        objective: "cross_entropy" or "mse".
        whole: one target a sequence; otherwise one a step.
    """

    def __init__(self, readout: nn.Module, objective: str, whole: bool) -> None:
        self.readout, self.objective, self.whole = readout, objective, whole

    def loss(self, batch: Batch, block: int, credit: int | None = None) -> BlockLoss:
        """The loss of outputs in blocks of `block` steps."""
        return BlockLoss(self.readout, self.objective, self.whole, batch, block, credit)


def step_one_layer(
    cell: Cell, head: Head, x: Tensor, state: Tensor, batch: Batch, plan: Plan, record: Record
) -> tuple[float, Tensor | None]:
    """Add the batch's gradients to `.grad`; return the mean loss and the mean loss of each credit block.

    Args:
        cell: the layer's.
        head: what is asked of its outputs.
        x: `(B, T, D)` its input, to which no gradient flows.
        state: `(B, S)` start.
        batch: targets and lengths.
        plan: how to run it.
        record: filled.
    """
    cell = captured(in_precision(cell, plan.precision), plan.captures)
    if plan.execution == "sequential":
        return _in_order(cell, head, x, state, batch, plan, record)
    states = solve_layer_states(cell, x, state, batch.lengths, plan, record, outputs=plan.group is None)
    with states.level as level:
        loss = head.loss(batch, plan.block, plan.credit_block)
        dout: Tensor | Loss | None = loss
        if level.outputs is not None:  # all there: once will do
            outputs = level.outputs
            dout = loss(0, outputs.shape[1], outputs.flatten(1, 2), True)
            dout = None if dout is None else dout.view_as(outputs)
        feedback = solve_layer_feedback(cell, states, dout, plan, record, x.shape[1], inputs=False)
    if feedback is None:
        return _in_order(cell, head, x, state, batch, plan, record)
    add_gradients(cell.parameters(), feedback.parameters)
    loss.accumulate()
    return loss.loss, loss.block_loss()


def _in_order(
    cell: Cell, head: Head, x: Tensor, state: Tensor, batch: Batch, plan: Plan, record: Record
) -> tuple[float, Tensor | None]:
    in_time = x.detach().transpose(0, 1).contiguous()
    with InOrder(cell, in_time, state, plan, record, outputs=False) as chain:
        size = chain.segment
        loss = head.loss(batch, size, plan.credit_block)

        def dout(first: int, stop: int, outputs: Tensor) -> Tensor | None:
            return loss(first // size, first // size + 1, outputs, True)

        _, _, parameters = chain.backward(dout, inputs=False)
    add_gradients(cell.parameters(), parameters)
    loss.accumulate()
    return loss.loss, loss.block_loss()
