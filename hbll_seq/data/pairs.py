"""`Pairs`: inputs and targets in memory for a module of the user's: any shapes, and targets with lengths of their own.

The order of the batches is that of `Padded`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.sources import Padded
from hbll_seq.errors import InputError


@dataclass
class Pairs(Padded):
    """Inputs `(N, ...)` and targets `(N, ...)`, padded.

    Attributes:
        x, lengths, y: as in `Batch`, of all sequences.
        mask: `(N, L)` or `(N,)` bool, True where a target counts; None if all do.
        target_lengths: `(N,)`, or None.
        weight: `(N,)`, or None.
        unequal: whether sequences differ in length, so that a batch is cut to its longest one.
        aligned: whether `y[:, t]` is the target of `x[:, t]`, so that it is cut too.
    """

    target_lengths: Tensor | None = None
    weight: Tensor | None = None
    unequal: bool = False
    aligned: bool = False

    def _take(self, rows: Tensor) -> Batch:
        lengths, x, y = self.lengths[rows], self.x[rows], self.y[rows]
        mask = None if self.mask is None else self.mask[rows]
        longest = None if self.target_lengths is None else self.target_lengths[rows]
        if self.unequal:
            x = x[:, : int(lengths.max())]
        width = None
        if longest is not None:
            width = max(1, int(longest.max()))
        elif self.aligned and self.unequal:
            width = int(lengths.max())
        if width is not None:
            y = y[:, :width]
            mask = mask[:, :width] if mask is not None and mask.ndim > 1 else mask
        if mask is not None and bool(mask.all()):
            mask = None
        return Batch(x, lengths, y, mask, None, longest, None if self.weight is None else self.weight[rows])

    def whole(self) -> Batch:
        """Return all data as one batch."""
        return self._take(torch.arange(len(self.x)))

    def labels(self) -> Tensor:
        """Return the targets that count, in one row."""
        if self.mask is not None:
            return self.y[self.mask].flatten()
        if self.target_lengths is not None:
            return self.y[torch.arange(self.y.shape[1])[None] < self.target_lengths[:, None]]
        return self.y.flatten()

    def tail(self, fraction: float) -> "tuple[Pairs, Pairs]":
        """See `Source`."""
        before, after = super().tail(fraction)
        assert isinstance(before, Pairs) and isinstance(after, Pairs)
        for part, which in ((before, "first"), (after, "last")):
            if part.weight is not None and not part.weight.any():
                came = f"{fraction}, and no sample_weight above 0 in the {which} {len(part.x)} sequences"
                raise InputError("validation", came, "sequences that count on either side")
        return before, after

    def _part(self, rows: slice) -> "Pairs":
        mask, longest, weight = (
            None if one is None else one[rows] for one in (self.mask, self.target_lengths, self.weight)
        )
        return Pairs(
            self.x[rows], self.lengths[rows], self.y[rows], mask, longest, weight, self.unequal, self.aligned
        )  # fmt: skip

    def parts(self) -> Iterator[Tensor]:
        """Iterate over what identifies the data beside x and lengths."""
        yield from (one for one in (self.y, self.mask, self.target_lengths, self.weight) if one is not None)
