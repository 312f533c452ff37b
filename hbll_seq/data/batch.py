"""One batch of sequences in normal form (`inputs.py` makes it from every form of input)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Padded sequences and their targets.

    Letters used everywhere in this package: B sequences, T time steps, D features in, d state
    units, V classes or symbols, K time steps a block, n blocks.

    Attributes:
        x: `(B, T, D)` float features or `(B, T)` int64 symbols; zeros after each length.
        lengths: `(B,)` int64 on the CPU, `1 <= lengths <= T`.
        y: targets. One per sequence: `(B,)` int64 or `(B, C)` float. One per step:
            `(B, T)` int64 or `(B, T, C)` float.
        mask: `(B, T)` bool, True where a step counts in the loss (per-step targets only);
            already False after each length and at `ignore_index`. None for one target per sequence.
        state: start `(B, S)` of every layer of a recurrent model, detached; None for zero.
        target_lengths: `(B,)` int64 on the CPU, targets of each sequence, where y has a length of its own; else None.
        weight: `(B,)` weight of each sequence in the loss; None for 1.
        whole: B and T of the batch of which this is one rank's part, with the state of all B (`SharedStreams`); else
            None.

    Modules of the user's (`models.any_module`) may read x of any shape `(B, ...)`, and losses of theirs any y and mask.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor
    mask: Tensor | None
    state: list[Tensor] | None = None
    target_lengths: Tensor | None = None
    weight: Tensor | None = None
    whole: tuple[int, int] | None = None

    def targeted(self) -> bool:
        """Return whether any target counts in the loss."""
        if self.weight is not None and not bool(self.weight.any()):
            return False
        return self.mask is None or bool(self.mask.any())

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on `device` (lengths stay on the CPU)."""
        return Batch(
            self.x.to(device),
            self.lengths,
            self.y.to(device),
            None if self.mask is None else self.mask.to(device),
            None if self.state is None else [one.to(device) for one in self.state],
            self.target_lengths,
            None if self.weight is None else self.weight.to(device),
            self.whole,
        )
