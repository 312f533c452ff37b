"""The loss of the blocks in flight: read-out, prediction loss and gradient, a group of blocks at a time.

So nothing of the length of the sequence is kept but inputs, targets and boundaries: neither outputs nor
predictions nor their gradients.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.data.batch import Batch
from hbll_seq.engine.blocks import to_blocks
from hbll_seq.errors import InputError
from hbll_seq.kernels.buffers import give
from hbll_seq.kernels.cross_entropy import linear_cross_entropy
from hbll_seq.kernels.roll import fused


class BlockLoss:
    """What a backward pass asks for the gradient on the outputs (`engine.level.Level.backward`).

    Args:
        readout: from hidden outputs to predictions.
        objective: "cross_entropy" or "mse".
        whole: one target a sequence, read at its last step; otherwise one a step.
        batch: targets.
        block: steps of a block in the layout of the outputs, K.
        credit: steps of the blocks whose losses are reported.

    Attributes:
        loss: mean loss of the batch, summed up over the groups of the latest pass.
    """

    def __init__(
        self, readout: nn.Module, objective: str, whole: bool, batch: Batch, block: int, credit: int | None = None
    ) -> None:
        self._readout, self._objective, self._whole = readout, objective, whole
        self._batch, self._block, self._credit = batch, block, block if credit is None else credit
        self._size, self._steps = batch.x.shape[0], batch.x.shape[1]
        self._fused = objective == "cross_entropy" and type(readout) is nn.Linear and fused(readout.weight)
        if not whole:
            y = batch.y if batch.y.ndim == 3 else batch.y.unsqueeze(-1)
            mask = torch.ones_like(batch.y[:, :, :1] if batch.y.ndim == 3 else y, dtype=torch.bool)
            mask = mask if batch.mask is None else batch.mask.unsqueeze(-1)
            self._y, self._mask = (to_blocks(one, block, copy=False) for one in (y, mask))
            self._count = max(int(mask.sum()), 1)
            if self._fused and isinstance(readout, nn.Linear):
                self._check(batch, len(readout.weight))
        self._lent: Tensor | None = None
        self.begin()

    @staticmethod
    def _check(batch: Batch, classes: int) -> None:
        """Refuse targets that count and are no class: the compiled softmax would write beside its logits."""
        y = batch.y if batch.mask is None else batch.y[batch.mask]
        if y.numel():
            low, high = (int(v) for v in y.aminmax())
            if low < 0 or high >= classes:
                raise InputError("y", f"targets {low}..{high}", f"classes in 0..{classes - 1}, others masked")

    def begin(self) -> None:
        """Forget the pass before: another one begins."""
        self.loss = 0.0
        self._seen: set[int] = set()
        padded = -(-self._steps // self._block) * self._block
        self._sums = torch.zeros(padded, dtype=torch.float64)  # by step
        self._counts = torch.zeros(padded, dtype=torch.float64)
        self._grads: list[Tensor] = []

    def __call__(self, first: int, stop: int, outputs: Tensor, gradients: bool) -> Tensor | None:
        """Gradient on the outputs of blocks first..stop, or None where no target is among them.

        Args:
            first, stop: blocks; another pass begins with the first span that comes again.
            outputs: `(K, m*B, d)`; a last block that is alone may be shorter than K.
            gradients: also add up the read-out's own.
        """
        if first in self._seen:
            self.begin()
        self._seen.add(first)
        if self._fused and not self._whole:
            return self._by_kernel(first, stop, outputs, gradients)
        k = len(outputs)
        outputs = outputs.unflatten(1, (stop - first, self._size))
        with torch.enable_grad():
            h = outputs.detach().requires_grad_()
            loss = self._at_ends(first, stop, h) if self._whole else self._per_step(first, stop, h)
            if loss is None:
                return None
            self.loss += float(loss.detach())
            parameters = [p for p in self._readout.parameters() if p.requires_grad] if gradients else []
            dout, *own = torch.autograd.grad(loss, [h, *parameters])
        self._add(own)
        return dout.view(k, -1, dout.shape[-1])

    def _add(self, grads: list[Tensor]) -> None:
        self._grads = grads if not self._grads else [p + q for p, q in zip(self._grads, grads, strict=True)]

    def _targets(self, first: int, stop: int, steps: int) -> tuple[Tensor, Tensor] | None:
        """Targets and mask `(k, m, B)`, or None where no target counts."""
        mask, y = self._mask[:steps, first:stop].squeeze(-1), self._y[:steps, first:stop]
        return (y, mask) if mask.any() else None

    def _by_kernel(self, first: int, stop: int, outputs: Tensor, gradients: bool) -> Tensor | None:
        found = self._targets(first, stop, len(outputs))
        if found is None:
            return None
        y, mask = found
        readout, h = self._readout, outputs.reshape(-1, outputs.shape[-1])
        assert isinstance(readout, nn.Linear)
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
        """Keep the sums of the losses `(k, m, B)`; returns their part of the mean."""
        each = torch.where(mask, each, each.new_zeros(()))  # a masked step may hold anything, and 0 * inf is not 0
        at = first * self._block
        for kept, now in ((self._sums, each.detach().sum(2)), (self._counts, mask.sum(2))):
            steps = now.double().cpu().t().flatten()  # (m * k,): in the order of time
            kept[at : at + len(steps)] = steps
        return each.sum() / self._count

    def _per_step(self, first: int, stop: int, h: Tensor) -> Tensor | None:
        found = self._targets(first, stop, len(h))
        if found is None:
            return None
        y, mask = found
        out = self._readout(h)
        if self._objective == "mse":
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
        out = self._readout(h[last[rows] % self._block, at[rows] - first, rows])
        y = self._batch.y[rows.to(self._batch.y.device)]
        if self._objective == "mse":
            return (out - y).square().mean(-1).sum() / self._size
        return functional.cross_entropy(out, y, reduction="sum") / self._size

    def block_loss(self) -> Tensor | None:
        """`(m,)` mean loss of every credit block, NaN where there is no target; None with one target a sequence."""
        if self._whole:
            return None
        k, steps = self._credit, self._steps
        over = -(-steps // k) * k - steps
        sums, counts = (functional.pad(one[:steps], (0, over)).view(-1, k).sum(1) for one in (self._sums, self._counts))
        return torch.where(counts > 0, sums / counts, math.nan).float()

    def accumulate(self) -> None:
        """Add the read-out's gradients to `.grad`; gradients handed out are gone after that."""
        self._return()
        if self._grads:
            add_gradients([p for p in self._readout.parameters() if p.requires_grad], [*self._grads])


def add_gradients(parameters: list[nn.Parameter], grads: list[Tensor | None]) -> None:
    """Add gradients to `.grad`, None for none."""
    for p, g in zip(parameters, grads, strict=True):
        if g is not None:
            p.grad = g.clone() if p.grad is None else p.grad + g
