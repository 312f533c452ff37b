"""`Share`: one rank's part of a batch, while an update of it runs; and what needs the whole: loss, outputs, shape."""

from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.distributed.group import Group
from hbll_seq.distributed.shards import TimeShards
from hbll_seq.errors import InputError


@dataclass
class Share:
    """This rank's part of one batch.

    Attributes:
        batch: its sequences and time steps.
        rows, steps: B and T of the whole batch.
        among: the ranks that have the other sequences.
        time: the ranks that have the other spans of the same sequences; None if this rank has whole sequences.
        gathers: whether the loss is of the outputs of all spans, which every rank then has.
        ends: whether it is of the outputs at the sequences' ends, which every rank has too.
        lengths: time steps of its whole sequences.
        loss, weight: of all spans together, once a loss was taken (`whole_loss`).
    """

    batch: Batch
    rows: int
    steps: int
    among: Group
    time: Group | None = None
    gathers: bool = False
    ends: bool = False
    lengths: Tensor | None = None
    loss: float = 0.0
    weight: float = 0.0

    @property
    def copies(self) -> int:
        """The ranks that report the loss of these sequences."""
        return 1 if self.time is None else self.time.size

    @property
    def same(self) -> bool:
        """Whether every rank of these sequences has the same loss, of the same targets."""
        return self.gathers or self.ends


SHARE: ContextVar[Share | None] = ContextVar("SHARE", default=None)


def whole_loss(loss: Tensor, weight: float, *, added: bool) -> Tensor:
    """Return this rank's part of the loss of all spans, for the backward pass; `loss` itself outside a share.

    Args:
        loss: mean over the targets in this span that count, with gradient.
        weight: their number, or the sum of their weights.
        added: the losses of spans add up, instead of being averaged.
    """
    share = SHARE.get()
    if share is None or share.time is None:
        return loss
    if share.same:  # on every rank, with `copies` times its span's part of the gradient
        share.loss, share.weight = float(loss.detach()), 1.0 if added else weight
        return loss / share.copies
    known = float(loss.detach()) if weight or added else 0.0
    numbers = torch.tensor([known * (1.0 if added else weight), weight], dtype=torch.float64)
    total, weights = share.time.sum(numbers).tolist()
    if added:
        share.loss, share.weight = total, 1.0
        return loss
    share.loss, share.weight = total / max(weights, 1e-300), weights
    # a mean of no targets is 0 / 0; its graph is still wanted, because other ranks wait for this one's messages
    return loss * (weight / weights) if weight else loss.nan_to_num(0.0) * 0.0


def whole_outputs(
    batch: Batch, out: Tensor, lengths: Tensor | None, shards: TimeShards | None
) -> tuple[Batch, Tensor, Tensor | None]:  # fmt: skip
    """Return the outputs `(B, T, ...)` of all spans on every rank, their lengths, and the batch with whole lengths, for
    a loss of whole sequences; all as they are outside such a share.

    Raises:
        InputError: outputs that are not of this span's time steps.
    """
    share = SHARE.get()
    if share is None or not share.gathers or shards is None or share.lengths is None:
        return batch, out, lengths
    steps = batch.x.shape[1]
    short = steps - out.shape[1] if out.ndim > 2 else -1
    if short < 0 or (short and out.shape[1] != max(1, int(batch.lengths.max()))):
        came = f"outputs {tuple(out.shape)} of a span of {steps} time steps"
        raise InputError("model", came, "outputs of every time step, for a loss of whole sequences over ranks in time")
    wide = torch.nn.functional.pad(out.flatten(2), (0, 0, 0, short))  # packed, no sequence may reach the span's end
    found = shards.whole(wide).view(len(out), share.steps, *out.shape[2:])
    told = int(share.lengths.min()) < share.steps or batch.target_lengths is not None
    return batch._replace(lengths=share.lengths), found, share.lengths if told else None


def shape_of(batch: Batch) -> tuple[int, int]:
    """Return T and B of the whole batch that a share belongs to; of the batch itself outside a share."""
    share = SHARE.get()
    return (batch.x.shape[1], len(batch.x)) if share is None else (share.steps, share.rows)
