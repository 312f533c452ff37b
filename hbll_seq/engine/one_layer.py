"""The update of a model of one layer, its loss computed block by block: no autograd graph from outputs to loss, no
copies.

The fixed points are those of `engine.layer`, the loss is that of `engine.block_loss`. In groups only the input, the
targets and the boundaries are kept for the whole sequence, so memory is that of a few blocks at any length. Every pass
then rolls its blocks again, which costs one more forward roll per pass.
"""

from torch import Tensor, nn

from hbll_seq.cells import Cell, captured, in_precision
from hbll_seq.data.batch import Batch
from hbll_seq.engine.block_loss import BlockLoss, LossPass
from hbll_seq.engine.gradients import add_to_parameters
from hbll_seq.engine.layer import solve_layer_feedback, solve_layer_states
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.engine.sequential import InOrder


class Head:
    """The read-out and loss on a layer's outputs.

    Args:
        readout: module from hidden outputs to predictions.
        objective: "cross_entropy" or "mse".
        whole: one target per sequence; otherwise one per time step.
    """

    def __init__(self, readout: nn.Module, objective: str, whole: bool) -> None:
        self.readout, self.objective, self.whole = readout, objective, whole

    def loss(self, batch: Batch, block: int, credit: int | None = None) -> BlockLoss:
        """Make the loss of a batch whose outputs come in blocks of `block` time steps."""
        return BlockLoss(self.readout, self.objective, self.whole, batch, block, credit)


def step_one_layer(
    cell: Cell, head: Head, x: Tensor, state: Tensor, batch: Batch, plan: Plan, record: Record
) -> tuple[float, Tensor | None]:
    """Add the batch's gradients to `.grad`; return the mean loss and the mean loss of each credit block.

    Args:
        cell: the layer's cell.
        head: the read-out and loss.
        x: `(B, T, D)` its input, to which no gradient flows.
        state: `(B, S)` start.
        batch: targets and lengths.
        plan: orders for the layer.
        record: record to fill.
    """
    cell = captured(in_precision(cell, plan.precision), plan.captures)
    if plan.execution == "sequential":
        return _in_order(cell, head, x, state, batch, plan, record)
    steps = x.shape[1]
    states = solve_layer_states(cell, x, state, batch.lengths, plan, record, outputs=plan.group is None)
    with states.roll as roll:
        loss = head.loss(batch, plan.block, plan.credit_block)
        outputs = roll.outputs
        if outputs is None:  # outputs come group by group, again in every pass over the blocks
            feedback = solve_layer_feedback(cell, states, loss, plan, record, steps, inputs=False)
            scored = None if feedback is None else feedback.scored
        else:  # all outputs exist: one pass over the loss serves all passes over the blocks
            with loss.new_pass() as scored:
                dout = scored(0, outputs.shape[1], outputs.flatten(1, 2), True)
                dout = None if dout is None else dout.view_as(outputs)
                feedback = solve_layer_feedback(cell, states, dout, plan, record, steps, inputs=False)
    if feedback is None:
        return _in_order(cell, head, x, state, batch, plan, record)
    assert scored is not None
    return _learn(cell, feedback.parameters, scored)


def _in_order(
    cell: Cell, head: Head, x: Tensor, state: Tensor, batch: Batch, plan: Plan, record: Record
) -> tuple[float, Tensor | None]:
    in_time = x.detach().transpose(0, 1).contiguous()
    with InOrder(cell, in_time, state, plan, record, outputs=False) as in_order:
        size = in_order.segment
        with head.loss(batch, size, plan.credit_block).new_pass() as scored:

            def dout(first: int, stop: int, outputs: Tensor) -> Tensor | None:
                return scored(first // size, first // size + 1, outputs, True)

            _, _, parameters = in_order.backward(dout, inputs=False)
    return _learn(cell, parameters, scored)


def _learn(cell: Cell, parameters: list[Tensor | None], scored: LossPass) -> tuple[float, Tensor | None]:
    """Add the gradients of the layer and of its read-out to `.grad`."""
    add_to_parameters(cell.parameters(), parameters)
    scored.accumulate()
    return scored.loss, scored.by_credit_block()
