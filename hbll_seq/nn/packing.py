"""Packed and padded sequences: one gather each way, whatever the number of time steps.

PyTorch's own functions copy one time step after another.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class Packing(NamedTuple):
    """The layout of a packed batch.

    Attributes:
        lengths: `(B,)` on the CPU, in the order of the caller's rows.
        rows: `(B, T)` row of the packed data for every padded place; padding reads row 0.
        places: `(N,)` place in the flattened padded batch, `b * T + t`, of every packed row.
    """

    lengths: Tensor
    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, packed: PackedSequence) -> "Packing":
        """Read the layout of a packed sequence."""
        sizes = packed.batch_sizes  # (T,), never growing
        steps, rows = len(sizes), int(sizes[0])
        inside = torch.arange(rows)[:, None] < sizes[None]  # (B, T), longest row first
        first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
        found = (first[None] + torch.arange(rows)[:, None]).masked_fill(~inside, 0)
        order = packed.unsorted_indices
        if order is not None:
            found, inside = found[order.cpu()], inside[order.cpu()]
        flat = torch.arange(rows * steps).view(rows, steps)
        places = torch.empty(int(sizes.sum()), dtype=torch.int64)
        places[found[inside]] = flat[inside]
        device = packed.data.device
        return cls(inside.sum(1), found.to(device), places.to(device))

    def padded(self, data: Tensor) -> Tensor:
        """Return packed rows `(N, D)` as `(B, T, D)`."""
        return data.index_select(0, self.rows.flatten()).view(*self.rows.shape, data.shape[1])

    def packed(self, x: Tensor) -> Tensor:
        """Return `(B, T, D)` as packed rows `(N, D)`."""
        return x.flatten(0, 1).index_select(0, self.places)
