"""`tbptt`: truncated BPTT. The chain runs on, the gradient is cut every `block_size` steps."""

import torch
from torch import Tensor

from hbll_seq.batch import Batch
from hbll_seq.cells import Cell
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import forward_backward, per_block
from hbll_seq.tree import auto_block


@register
class TBPTT(Rule[SequenceModel]):
    """Truncated BPTT.

    Args:
        block_size: steps between two cuts, or "auto" for the block size `hbll` would take.
    """

    name = "tbptt"

    def __init__(self, block_size: int | str = "auto") -> None:
        if block_size != "auto" and not (isinstance(block_size, int) and block_size >= 1):
            raise InputError("block_size", repr(block_size), 'an integer >= 1 or "auto"')
        self.block_size = block_size

    def step(self, model: SequenceModel, batch: Batch) -> StepResult:
        """See `Rule.step`."""
        steps = batch.x.shape[1]
        block = self.block_size if isinstance(self.block_size, int) else auto_block(steps, batch.x.shape[0])

        def execute(layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None) -> Tensor:
            outputs = []
            for piece in x.split(block, 1):
                out, state = cell.sequence(piece, state.detach())
                outputs.append(out)
            return torch.cat(outputs, 1)

        loss, per_step = forward_backward(model, batch, execute)
        # the gradients of the pieces do not depend on each other: depth is one chain and one piece back
        return StepResult(loss, {"depth": float(steps + min(block, steps))}, per_block(per_step, batch.mask, block))
