"""`dsf`: fixed diagonal state feedback (after Caillon et al., arXiv:2503.23104).

The forward pass is the sequential chain. Backward, the Jacobian of a step is replaced by a diagonal D
that never changes, so the error on the memory, e_t = dL_t/dm_t + D e_{t+1}, is one reverse scan, and
every step is differentiated on its own. D is the mean carry of the first batch, so units with long
memory get long feedback (the paper's choice of D is not public in the text we could reach).
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.engine.blocks import Depth, from_blocks, to_blocks
from hbll_seq.engine.level import Level
from hbll_seq.kernels.scan import reverse_scan
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import forward_backward


@register
class DSF(Rule[SequenceModel]):
    """Fixed diagonal feedback."""

    name = "dsf"

    def __init__(self) -> None:
        self.diagonal: dict[int, Tensor] = {}

    def step(self, model: SequenceModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""

        def execute(layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None) -> Tensor:
            result = _FixedFeedback.apply(x, state, cell, self.diagonal, layer, *cell.parameters())
            assert isinstance(result, Tensor)
            return result

        loss, _ = forward_backward(model, batch, execute)
        steps = batch.x.shape[1]
        return StepResult(loss, {"depth": float(steps + 1 + max(steps - 1, 1).bit_length())})

    def state_dict(self) -> dict[str, Any]:
        """The diagonal of each layer."""
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
    ) -> Tensor:
        with torch.no_grad():
            before, rows = [], state
            for now in cell.project(x).unbind(1):
                before.append(rows)
                rows = cell.advance(now, rows).state
            start = torch.stack(before)  # (T, B, S): every step is a block of its own
            level = Level(cell, to_blocks(x, 1), start, keep=True, group=None, depth=Depth())
            if layer not in diagonal:
                diagonal[layer] = level.carry.mean((0, 1)).clamp(-0.9999, 0.9999)
        ctx.cell, ctx.level, ctx.diagonal = cell, level, diagonal[layer]
        assert level.outputs is not None
        return from_blocks(level.outputs, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        level, cell = ctx.level, ctx.cell
        dout = to_blocks(grads[0], 1)  # (1, T, B, d)
        error = dout[0] if level.link is None else level.link * dout[0]  # on the memory, (T, B, M)
        lam = reverse_scan(ctx.diagonal.expand_as(error).contiguous(), error, torch.zeros_like(error[0]))
        dend = torch.zeros_like(level.end)
        dend[..., : cell.memory_size] = ctx.diagonal * lam[1:]
        q, dx, parameters = level.backward(dout, dend, gradients=True)
        dx = None if dx is None else from_blocks(dx, grads[0].shape[1])
        return (dx, q[0], None, None, None, *parameters)
