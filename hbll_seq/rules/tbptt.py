"""`tbptt`: truncated BPTT. The chain runs on, the gradient is cut every `block_size` steps."""

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import choice
from hbll_seq.engine import Engine, Options
from hbll_seq.models.over_time import TimeModel
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.bptt import KERNELS, compiled
from hbll_seq.rules.execute import forward_backward_state, need_layers, per_block, train, warn_of_others


@register
class TBPTT(Rule[TimeModel]):
    """Truncated BPTT: the chain runs on, the gradient is cut at every credit block's end (docs/method.md#discount).

    A backward direction is cut too, at the ends of the blocks of the reversed sequence.

    Args:
        block_size: time steps between two cuts; "auto": the credit block of `hbll`.
        kernels: see `BPTT`.
    """

    name = "tbptt"
    carries_state = True

    def __init__(self, block_size: int | str = "auto", *, kernels: str = "auto") -> None:
        choice("kernels", kernels, KERNELS)
        self.kernels = kernels
        self._seen: int | None = None
        self.engine = Engine(Options(block_size=block_size, execution="sequential", discount=0.0))

    def setup(self, model: TimeModel, generator: torch.Generator) -> None:
        """Refuse a model without recurrent layers; warn of those that it does not run."""
        need_layers(model, self.name)
        self._seen = warn_of_others(model, self.name)

    def step(self, model: TimeModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        if self._seen != id(model.inner):  # a loop of one's own need not call `setup` for a module of one's own
            self._seen = warn_of_others(model, self.name)
        steps = batch.x.shape[1]
        block = self.engine.credit_block(steps, len(batch.x))
        if self.kernels == "auto" and compiled(model):
            loss, losses, state = train(model, batch, self.engine, block, 0.0)
        else:
            loss, losses, state = self._by_torch(model, batch, block)
        # the gradients of pieces are independent: depth is one chain and one piece back
        return StepResult(loss, {"depth": float(steps + min(block, steps))}, losses, state)

    def _by_torch(
        self, model: TimeModel, batch: Batch, block: int
    ) -> tuple[float, Tensor | None, list[Tensor] | None]:  # fmt: skip
        def execute(
            layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
        ) -> tuple[Tensor, Tensor]:
            outputs = []
            size = block if model.whole_layers else self.engine.credit_block(x.shape[1], len(x))
            for piece in x.split(size, 1):
                out, state = cell.sequence(piece, state.detach())
                outputs.append(out)
            return torch.cat(outputs, 1), state

        loss, per_step, state = forward_backward_state(model, batch, execute)
        return loss, per_block(per_step, batch.mask, block), state
