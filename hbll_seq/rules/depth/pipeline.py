"""Batches on their way along the full path of a layered network, one module further at every step.

Where no credit crosses a node, module n can learn from the batch of n - 1 steps ago as well as from this one, and the
state it reads is then the full path's own, not an approximation: only the weights that made it are a few steps older.
All modules still run in one call, each on a batch of its own.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch


class Flight:
    """For every node but the last, its latest state and the targets that belong to it."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Batch]] = []

    def under_way(self, start: Tensor) -> bool:
        """Whether there are states of the kind of `start` to go on with."""
        return bool(self._held) and all(
            z.dtype == start.dtype and z.ndim == start.ndim and z.shape[-1] == start.shape[-1] for z, _ in self._held
        )

    def board(self, start: Tensor, batch: Batch) -> list[tuple[Tensor, Batch]]:
        """What nodes 1..N-1 read, with targets: the new z_0 `(B, ..., width)`, then their left neighbours' states."""
        return [(start, batch), *((z.to(start.device), b.to(start.device)) for z, b in self._held)]

    def keep(self, states: list[Tensor], batches: list[Batch]) -> None:
        """The states of nodes 1..N-1 after a step; the last one has arrived and is dropped."""
        # the inputs are not needed any more; a slice of them would keep N - 1 batches in memory
        self._held = [
            (z.detach(), b._replace(x=b.x.new_empty(0))) for z, b in zip(states[:-1], batches[:-1], strict=True)
        ]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Tensors of everything under way."""
        return {
            str(n): {"z": z, **{k: v for k, v in b._asdict().items() if v is not None}}
            for n, (z, b) in enumerate(self._held, 1)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._held = [
            (one["z"], Batch(one["x"], one["lengths"], one["y"], one.get("mask")))
            for one in (state[n] for n in sorted(state, key=int))
        ]


def alike(inputs: list[tuple[Tensor, Batch]]) -> list[list[int]]:
    """Positions of inputs of equal shapes together, so that each group is one batched call."""
    groups: dict[torch.Size, list[int]] = {}
    for i, (z, _) in enumerate(inputs):
        groups.setdefault(z.shape, []).append(i)
    return list(groups.values())
