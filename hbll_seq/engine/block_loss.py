"""The loss of the blocks in flight: read-out, prediction loss and gradient, a group of blocks at a time.

So only inputs, targets and boundaries are kept for the whole sequence: neither outputs nor predictions nor their
gradients. `BlockLoss` describes the loss of a batch. A `LossPass` goes through its blocks once and sums their results;
every pass over the blocks starts a new one (`BlockLoss.new_pass`).
"""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.data.batch import Batch
from hbll_seq.engine.blocks import to_blocks
from hbll_seq.engine.gradients import add_to_parameters, added
from hbll_seq.errors import InputError
from hbll_seq.kernels.buffers import give
from hbll_seq.kernels.cross_entropy import linear_cross_entropy
from hbll_seq.kernels.roll import fused
from hbll_seq.losses import counted, only_counted, total


class BlockLoss:
    """The loss of a batch's outputs; it does not change.

    Args:
        readout: module from hidden outputs to predictions.
        objective: "cross_entropy" or "mse".
        whole: one target per sequence, read at its last time step; otherwise one per time step.
        batch: targets.
        block: time steps of a block in the layout of the outputs, K.
        credit: time steps of the blocks whose losses are reported.

    Attributes:
        size, steps, blocks: B, T and n.
        count: targets that count, at least 1; only with one per time step.
        fused: whether read-out and loss run as one compiled kernel.

    Raises:
        InputError: a target that counts and is no class, before the compiled read-out.
    """

    def __init__(
        self, readout: nn.Module, objective: str, whole: bool, batch: Batch, block: int, credit: int | None = None
    ) -> None:
        self.readout, self.objective, self.whole, self.batch = readout, objective, whole, batch
        self.block, self.credit = block, block if credit is None else credit
        self.size, self.steps = batch.x.shape[0], batch.x.shape[1]
        self.blocks = -(-self.steps // block)
        self.fused = not whole and objective == "cross_entropy" and type(readout) is nn.Linear and fused(readout.weight)
        if not whole:
            y = batch.y if batch.y.ndim == 3 else batch.y.unsqueeze(-1)
            mask = torch.ones_like(batch.y[:, :, :1] if batch.y.ndim == 3 else y, dtype=torch.bool)
            mask = mask if batch.mask is None else batch.mask.unsqueeze(-1)
            self._y, self._mask = (to_blocks(one, block, copy=False) for one in (y, mask))
            self.count = max(int(mask.sum()), 1)
            if self.fused and isinstance(readout, nn.Linear):
                self._check(batch, len(readout.weight))

    @staticmethod
    def _check(batch: Batch, classes: int) -> None:
        """Refuse targets that count and are no class: the compiled softmax would write outside its logits."""
        y = batch.y if batch.mask is None else batch.y[batch.mask]
        if y.numel():
            low, high = (int(v) for v in y.aminmax())
            if low < 0 or high >= classes:
                raise InputError("y", f"targets {low}..{high}", f"classes in 0..{classes - 1}, others masked")

    def targets(self, first: int, stop: int, steps: int) -> tuple[Tensor, Tensor] | None:
        """Cut out the targets `(k, m, B)`, or values `(k, m, B, C)`, and their mask; None where no target counts."""
        mask, y = self._mask[:steps, first:stop].squeeze(-1), self._y[:steps, first:stop]
        if not mask.any():
            return None
        return (y if y.is_floating_point() else y.squeeze(-1)), mask

    def ends(self, first: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the sequences that end in blocks first..stop: `(R,)` rows, steps in their block, blocks from `first`."""
        last = self.batch.lengths - 1
        at = torch.div(last, self.block, rounding_mode="floor")
        rows = torch.nonzero((at >= first) & (at < stop)).flatten()
        return rows, last[rows] % self.block, at[rows] - first

    def new_pass(self) -> "LossPass":
        """Start a pass over all blocks."""
        return LossPass(self)


class LossPass:
    """One pass over all blocks; each call takes a span of blocks and returns the gradient on its outputs.

    A context: inside it spans are scored in any order, every block once; after it the sums can be read. The gradient of
    a span may lie in a work buffer (`kernels.buffers`). The pass owns it and gives it back at the next call and when
    the context ends.

    Raises:
        RuntimeError: a block is scored twice, or outside the context; the context ends before every block was scored;
            a sum is read before it ends.
    """

    def __init__(self, loss: BlockLoss) -> None:
        self._of, self._state = loss, "new"
        self._asked = [False] * loss.blocks
        self._loss = 0.0
        padded = loss.blocks * loss.block
        self._sums = torch.zeros(padded, dtype=torch.float64)  # of the losses, by step
        self._counts = torch.zeros(padded, dtype=torch.float64)
        self._grads: list[Tensor | None] = []
        self._lent: Tensor | None = None

    def __enter__(self) -> Self:
        """Open the pass."""
        if self._state != "new":
            raise RuntimeError(f"a pass over the loss that is {self._state} was opened again: start a new one")
        self._state = "open"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give back the work buffer; refuse to end with sums of some blocks only, unless an error ends it."""
        self._return()
        self._state = "over" if all(self._asked) else "broken off"
        if kind is None and self._state != "over":
            missing = [i for i, asked in enumerate(self._asked) if not asked]
            raise RuntimeError(f"a pass over the loss ended without blocks {missing}: its sums would be of the others")

    def __call__(self, first: int, stop: int, outputs: Tensor, gradients: bool) -> Tensor | None:
        """Score blocks first..stop: return the gradient on their outputs, or None where no target is among them.

        Args:
            first, stop: a span of blocks.
            outputs: `(K, m*B, d)`; a last block that is alone may be shorter than K.
            gradients: also add up the read-out's own.

        Returns:
            `(K, m*B, d)`, until the next call or the end of the pass: it may be the pass's work buffer.
        """
        self._ask(first, stop)
        self._return()
        if self._of.fused:
            return self._by_kernel(first, stop, outputs, gradients)
        k, readout = len(outputs), self._of.readout
        outputs = outputs.unflatten(1, (stop - first, self._of.size))
        with torch.enable_grad():
            h = outputs.detach().requires_grad_()
            loss = self._at_ends(first, stop, h) if self._of.whole else self._per_step(first, stop, h)
            if loss is None:
                return None
            self._loss += float(loss.detach())
            parameters = [p for p in readout.parameters() if p.requires_grad] if gradients else []
            dout, *own = torch.autograd.grad(loss, [h, *parameters])
        self._grads = added(self._grads, [*own])
        return dout.view(k, -1, dout.shape[-1])

    def _ask(self, first: int, stop: int) -> None:
        """Refuse a span outside this pass."""
        asked, n = f"blocks {first}..{stop - 1} were asked for", len(self._asked)
        if self._state != "open":
            raise RuntimeError(f"{asked} in a pass over the loss that is {self._state}")
        if not 0 <= first < stop <= n:
            raise RuntimeError(f"{asked}, of {n}")
        if any(self._asked[first:stop]):
            raise RuntimeError(f"{asked} again in the same pass over the loss: BlockLoss.new_pass starts another")
        self._asked[first:stop] = [True] * (stop - first)

    def _return(self) -> None:
        if self._lent is not None:
            give(self._lent)
        self._lent = None

    def _by_kernel(self, first: int, stop: int, outputs: Tensor, gradients: bool) -> Tensor | None:
        found = self._of.targets(first, stop, len(outputs))
        if found is None:
            return None
        y, mask = found
        readout, h = self._of.readout, outputs.reshape(-1, outputs.shape[-1])
        assert isinstance(readout, nn.Linear)
        weights = mask.flatten().float() / self._of.count
        y = y.masked_fill(~mask, 0).flatten()
        out = linear_cross_entropy(h, readout.weight, readout.bias, y, weights, gradients=gradients)
        self._lent = out.dh
        self._loss += float(self._note(first, only_counted(out.losses.view(mask.shape), mask), mask))
        own = [g for g in (out.weight, out.bias if readout.bias is not None else None) if g is not None]
        self._grads = added(self._grads, [*own])
        return out.dh.view(outputs.shape)

    def _note(self, first: int, each: Tensor, mask: Tensor) -> Tensor:
        """Keep the sums of the losses `(k, m, B)`, by step; return their part of the mean."""
        at = first * self._of.block
        for kept, now in ((self._sums, each.detach().sum(2)), (self._counts, mask.sum(2))):
            steps = now.double().cpu().t().flatten()  # (m * k,): in the order of time
            kept[at : at + len(steps)] = steps
        return each.sum() / self._of.count

    def _per_step(self, first: int, stop: int, h: Tensor) -> Tensor | None:
        found = self._of.targets(first, stop, len(h))
        if found is None:
            return None
        y, mask = found
        return self._note(first, counted(self._of.objective, self._of.readout(h), y, mask), mask)

    def _at_ends(self, first: int, stop: int, h: Tensor) -> Tensor | None:
        rows, step, block = self._of.ends(first, stop)
        if not len(rows):
            return None
        y = self._of.batch.y
        out = self._of.readout(h[step, block, rows])
        return total(self._of.objective, out, y[rows.to(y.device)]) / self._of.size

    def _over(self) -> None:
        if self._state != "over":
            raise RuntimeError(f"the sums of a pass over the loss were read while it is {self._state}")

    @property
    def loss(self) -> float:
        """The mean loss of the batch."""
        self._over()
        return self._loss

    def by_credit_block(self) -> Tensor | None:
        """Average by credit block, `(m,)`, NaN for one without a target; None with one target per sequence."""
        self._over()
        if self._of.whole:
            return None
        k, steps = self._of.credit, self._of.steps
        over = -(-steps // k) * k - steps
        sums, counts = (functional.pad(one[:steps], (0, over)).view(-1, k).sum(1) for one in (self._sums, self._counts))
        return torch.where(counts > 0, sums / counts, math.nan).float()

    def accumulate(self) -> None:
        """Add the read-out's gradients, of the spans that requested them, to `.grad`."""
        self._over()
        if self._grads:
            add_to_parameters([p for p in self._of.readout.parameters() if p.requires_grad], self._grads)
