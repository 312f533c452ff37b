"""The loss of the blocks in flight: read-out, prediction loss and gradient, a group of blocks at a time.

So nothing of the length of the sequence is kept but inputs, targets and boundaries: neither outputs nor
predictions nor their gradients (design section 3, memory).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.batch import Batch
from hbll_seq.kernels.buffers import give
from hbll_seq.kernels.cross_entropy import linear_cross_entropy
from hbll_seq.kernels.roll import fused
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.scheduler import to_blocks


class LocalLoss:
    """What a backward pass over groups asks for the gradient on the outputs (`scheduler.Level.backward`).

    Args:
        model: its read-out, task and objective are used.
        batch: targets.
        block: steps a block, K.

    Attributes:
        loss: mean loss of the batch, summed up over the groups of the latest pass.
    """

    def __init__(self, model: SequenceModel, batch: Batch, block: int) -> None:
        self._model, self._batch, self._block = model, batch, block
        self._size, steps = batch.x.shape[0], batch.x.shape[1]
        self._blocks = -(-steps // block)
        self._whole = model.task == "sequence"
        self._fused = model.objective == "cross_entropy" and type(model.readout) is nn.Linear
        self._fused = self._fused and fused(model.readout.weight)
        if not self._whole:
            y = batch.y if batch.y.ndim == 3 else batch.y.unsqueeze(-1)
            mask = torch.ones_like(batch.y[:, :, :1] if batch.y.ndim == 3 else y, dtype=torch.bool)
            mask = mask if batch.mask is None else batch.mask.unsqueeze(-1)
            self._y, self._mask = (to_blocks(one, block, copy=False) for one in (y, mask))
            self._count = max(int(mask.sum()), 1)
        self._lent: Tensor | None = None
        self._begin()

    def _begin(self) -> None:
        self.loss = 0.0
        self._seen: set[int] = set()
        self._sums = torch.zeros(self._blocks, dtype=torch.float64)
        self._counts = torch.zeros(self._blocks, dtype=torch.float64)
        self._grads: list[Tensor] = []

    def __call__(self, first: int, stop: int, outputs: Tensor, gradients: bool) -> Tensor | None:
        """Gradient on the outputs of blocks first..stop, or None where no target is among them.

        Args:
            first, stop: blocks; another pass begins with the first span that comes again.
            outputs: `(K, m*B, d)`.
            gradients: also add up the read-out's own.
        """
        if first in self._seen:
            self._begin()
        self._seen.add(first)
        if self._fused and not self._whole:
            return self._by_kernel(first, stop, outputs, gradients)
        outputs = outputs.unflatten(1, (stop - first, self._size))
        with torch.enable_grad():
            h = outputs.detach().requires_grad_()
            loss = self._at_ends(first, stop, h) if self._whole else self._per_step(first, stop, h)
            if loss is None:
                return None
            self.loss += float(loss.detach())
            parameters = list(self._model.readout.parameters()) if gradients else []
            dout, *own = torch.autograd.grad(loss, [h, *parameters])
        self._add(own)
        return dout.view(self._block, -1, dout.shape[-1])

    def _add(self, grads: list[Tensor]) -> None:
        self._grads = grads if not self._grads else [p + q for p, q in zip(self._grads, grads, strict=True)]

    def _targets(self, first: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """Targets and mask `(K, m, B)`, or None where no target counts."""
        mask, y = self._mask[:, first:stop].squeeze(-1), self._y[:, first:stop]
        return (y, mask) if mask.any() else None

    def _by_kernel(self, first: int, stop: int, outputs: Tensor, gradients: bool) -> Tensor | None:
        found = self._targets(first, stop)
        if found is None:
            return None
        y, mask = found
        readout, h = self._model.readout, outputs.reshape(-1, outputs.shape[-1])
        weights = mask.flatten().float() / self._count
        y = y.squeeze(-1).masked_fill(~mask, 0).flatten()
        self._return()
        out = linear_cross_entropy(h, readout.weight, readout.bias, y, weights, gradients=gradients)
        self.loss += float(self._note(first, stop, out.losses.view(mask.shape), mask))
        self._add([g for g in (out.weight, out.bias if readout.bias is not None else None) if g is not None])
        self._lent = out.dh
        return out.dh.view(outputs.shape)

    def _return(self) -> None:
        """Give the work buffer of the last gradient back: who asks for the next one, or is done, needs it no more."""
        if self._lent is not None:
            give(self._lent)
        self._lent = None

    def _note(self, first: int, stop: int, each: Tensor, mask: Tensor) -> Tensor:
        """Keep the sums of the losses `(K, m, B)`; returns their part of the mean."""
        each = torch.where(mask, each, each.new_zeros(()))  # a masked step may hold anything, and 0 * inf is not 0
        self._sums[first:stop] = each.detach().sum((0, 2)).double().cpu()
        self._counts[first:stop] = mask.sum((0, 2)).double().cpu()
        return each.sum() / self._count

    def _per_step(self, first: int, stop: int, h: Tensor) -> Tensor | None:
        found = self._targets(first, stop)
        if found is None:
            return None
        y, mask = found
        out = self._model.readout(h)
        if self._model.objective == "mse":
            each = (out - y).square().mean(-1)
        else:
            y = y.squeeze(-1).masked_fill(~mask, 0)
            each = functional.cross_entropy(out.flatten(0, 2), y.flatten(), reduction="none").view(mask.shape)
        return self._note(first, stop, each, mask)

    def _at_ends(self, first: int, stop: int, h: Tensor) -> Tensor | None:
        last = self._batch.lengths - 1
        at = torch.div(last, self._block, rounding_mode="floor")
        rows = torch.nonzero((at >= first) & (at < stop)).flatten()
        if not len(rows):
            return None
        out = self._model.readout(h[last[rows] % self._block, at[rows] - first, rows])
        y = self._batch.y[rows.to(self._batch.y.device)]
        if self._model.objective == "mse":
            return (out - y).square().mean(-1).sum() / self._size
        return functional.cross_entropy(out, y, reduction="sum") / self._size

    def block_loss(self) -> Tensor | None:
        """`(n,)` mean loss of every block, NaN where there is no target; None with one target a sequence."""
        if self._whole:
            return None
        return torch.where(self._counts > 0, self._sums / self._counts, math.nan).float()

    def accumulate(self) -> None:
        """Add the read-out's gradients to `.grad`; gradients handed out are gone after that."""
        self._return()
        add_gradients(list(self._model.readout.parameters()), [*self._grads])


def add_gradients(parameters: list[torch.nn.Parameter], grads: list[Tensor | None]) -> None:
    """Add gradients to `.grad`, None for none."""
    for p, g in zip(parameters, grads, strict=True):
        if g is not None:
            p.grad = g.clone() if p.grad is None else p.grad + g
