"""Batches on their way along the full path of a layered network, one module further at every update.

No credit crosses a node. So module n can learn from the batch of n - 1 updates ago instead of the newest one, and the
state it then reads is the full path's own, not an approximation; only the weights that made it are a few updates older.
All modules still run in one call, each on a batch of its own.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch


class Pipeline:
    """The latest state of every node but the last, with the targets of the batch it was made from."""

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Batch]] = []

    def continues(self, start: Tensor) -> bool:
        """Whether states are stored, and are compatible with `start`: same dtype, number of axes and width."""
        return bool(self._held) and all(
            z.dtype == start.dtype and z.ndim == start.ndim and z.shape[-1] == start.shape[-1] for z, _ in self._held
        )

    def inputs(self, start: Tensor, batch: Batch) -> list[tuple[Tensor, Batch]]:
        """Inputs of nodes 1..N-1, each with its targets: the new z_0 `(B, ..., width)`, then the stored states."""
        return [(start, batch), *((z.to(start.device), b.to(start.device)) for z, b in self._held)]

    def keep(self, states: list[Tensor], batches: list[Batch]) -> None:
        """Store the states of nodes 1..N-1 after an update, but the last one: its batch has arrived."""
        # the inputs are not needed any more; a slice of them would keep N - 1 batches in memory
        self._held = [
            (z.detach(), b._replace(x=b.x.new_empty(0))) for z, b in zip(states[:-1], batches[:-1], strict=True)
        ]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the stored states and targets by node."""
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


def by_shape(inputs: list[tuple[Tensor, Batch]]) -> list[list[int]]:
    """Group the positions of inputs of one shape: each group is one batched call."""
    groups: dict[torch.Size, list[int]] = {}
    for i, (z, _) in enumerate(inputs):
        groups.setdefault(z.shape, []).append(i)
    return list(groups.values())
