"""`dsf`: fixed diagonal state feedback (after Caillon et al., arXiv:2503.23104).

The forward pass is the sequential chain. In the backward pass a fixed diagonal D replaces the Jacobian of a time step.
So the error on the memory, e_t = dL_t/dm_t + D e_{t+1}, is one reverse scan, and every time step is differentiated on
its own. D is the mean carry of the first batch, so units with long memory get long feedback (the paper's choice of D
is not public in the text we could reach).
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth, from_blocks, to_blocks
from hbll_seq.kernels.scan import reverse_scan
from hbll_seq.models.over_time import TimeModel
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import forward_backward_state, need_layers, warn_of_others


@register
class DSF(Rule[TimeModel]):
    """Diagonal state feedback: a fixed diagonal in place of each time step's Jacobian (see the module docstring)."""

    name = "dsf"
    carries_state = True

    def __init__(self) -> None:
        self.diagonal: dict[int, Tensor] = {}
        self._seen: int | None = None

    def setup(self, model: TimeModel, generator: torch.Generator) -> None:
        """Refuse a model without recurrent layers; warn of those that it does not run."""
        need_layers(model, self.name)
        self._seen = warn_of_others(model, self.name)

    def step(self, model: TimeModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        if self._seen != id(model.inner):  # a loop of one's own need not call `setup` for a module of one's own
            self._seen = warn_of_others(model, self.name)

        def execute(
            layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
        ) -> tuple[Tensor, Tensor]:
            outputs, last = _FixedFeedback.apply(x, state, cell, self.diagonal, layer, *cell.parameters())
            return outputs, last if cell.state_size > cell.hidden_size else outputs[:, -1]

        loss, _, state = forward_backward_state(model, batch, execute)
        steps = batch.x.shape[1]
        return StepResult(loss, {"depth": float(steps + 1 + max(steps - 1, 1).bit_length())}, state=state)

    def state_dict(self) -> dict[str, Any]:
        """Return the diagonal of each layer."""
        return {f"diagonal.{layer}": d for layer, d in self.diagonal.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the diagonals."""
        self.diagonal = {int(key.split(".")[1]): d for key, d in state.items()}


class _FixedFeedback(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        state: Tensor,
        cell: Cell,
        diagonal: dict[int, Tensor],
        layer: int,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            before, rows = [], state
            for now in cell.project(x).unbind(1):
                before.append(rows)
                rows = cell.advance(now, rows).state
            start = torch.stack(before)  # (T, B, S): every time step is its own block
            roll = BlockRoll(cell, to_blocks(x, 1), start, keep=True, group=None, depth=Depth())
            if layer not in diagonal:
                diagonal[layer] = roll.carry.mean((0, 1)).clamp(-0.9999, 0.9999)
        ctx.cell, ctx.roll, ctx.diagonal = cell, roll, diagonal[layer]
        assert roll.outputs is not None
        last = rows.detach().clone()  # no gradient enters there
        ctx.mark_non_differentiable(last)
        return from_blocks(roll.outputs, x.shape[1]), last

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        with ctx.roll as roll:
            return _FixedFeedback._pull_back(ctx.cell, roll, ctx.diagonal, grads[0])

    @staticmethod
    def _pull_back(cell: Cell, roll: BlockRoll, diagonal: Tensor, dout: Tensor) -> Any:
        steps, dout = dout.shape[1], to_blocks(dout, 1)  # (1, T, B, d)
        error = dout[0] if roll.link is None else roll.link * dout[0]  # on the memory, (T, B, M)
        lam = reverse_scan(diagonal.expand_as(error).contiguous(), error, torch.zeros_like(error[0]))
        dend = torch.zeros_like(roll.end)
        dend[..., : cell.memory_size] = diagonal * lam[1:]
        q, dx, parameters = roll.backward(dout, dend, gradients=True)
        dx = None if dx is None else from_blocks(dx, steps)
        return (dx, q[0], None, None, None, *parameters)
