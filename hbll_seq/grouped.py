"""A model of one layer trained with its loss inside the level: no autograd graph from outputs to loss, no copies.

The same fixed points as `local.py`, with the loss taken where the blocks are (`local_loss.py`). In groups what is kept
of the whole sequence is the input, the targets and the boundaries, so memory is that of a few blocks whatever the
length; every pass rolls its blocks again, which costs one forward roll more a pass.
"""

import torch
from torch import Tensor

from hbll_seq.batch import Batch
from hbll_seq.cells import SymbolCell, captured, in_precision
from hbll_seq.local import LayerPlan, LayerRecord, solve_layer_feedback, solve_layer_states
from hbll_seq.local_loss import LocalLoss, add_gradients
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.scheduler import Loss

CHUNK = 16384  # steps of the deployed chain at a time


def step_grouped(
    model: SequenceModel, batch: Batch, plan: LayerPlan, record: LayerRecord
) -> tuple[float, Tensor | None]:
    """Add the batch's gradients to `.grad`; return the mean loss and the mean loss of each block.

    Args:
        model: of one layer.
        batch: see `Batch`.
        plan: with or without `group`.
        record: filled.
    """
    cell = in_precision(model.cells[0], plan.precision)
    x = batch.x
    if model.embedding is not None:
        cell, x = SymbolCell(cell, model.embedding.weight), x.unsqueeze(-1)
    cell = captured(cell, plan.captures)
    state = cell.initial(len(x), model.readout.weight)
    states = solve_layer_states(cell, x, state, batch.lengths, plan, record, outputs=plan.group is None)
    loss = LocalLoss(model, batch, plan.block)
    dout: Tensor | Loss | None = loss
    if states.level.outputs is not None:  # all there: once will do
        outputs = states.level.outputs
        dout = loss(0, outputs.shape[1], outputs.flatten(1, 2), True)
        dout = None if dout is None else dout.view_as(outputs)
    feedback = solve_layer_feedback(cell, states, dout, plan, record, inputs=False)
    states.level.release()
    add_gradients(cell.parameters(), feedback.parameters)
    loss.accumulate()
    return loss.loss, loss.block_loss()


def deployed_loss(model: SequenceModel, batch: Batch) -> float:
    """Mean loss of the deployed chain, without gradient, a chunk of steps at a time."""
    (cell,) = model.cells
    steps = batch.x.shape[1]
    state = cell.initial(len(batch.x), model.readout.weight)
    block = min(CHUNK, steps)
    loss = LocalLoss(model, batch, block)
    with torch.no_grad():
        for i in range(0, steps, block):
            h, state = cell.sequence(model.embed(batch.x[:, i : i + block]), state)
            h = torch.nn.functional.pad(h, (0, 0, 0, block - h.shape[1]))
            loss(i // block, i // block + 1, h.transpose(0, 1).contiguous(), False)
    return loss.loss
