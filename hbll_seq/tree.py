"""The tree of temporal blocks: integers only, no tensors.

T time steps are cut into n = ceil(T/K) blocks of K steps; the last may be shorter. A node of height h covers
2^h blocks; nodes of height 0 are the blocks, the top is the root. Boundary i (1 <= i < n) lies between block
i-1 and block i and is the midpoint of exactly one node, whose two ends are its parents in the
factorisation of Theorem 1 (the paper, section 1).
"""

import operator
from dataclasses import dataclass

from hbll_seq.errors import InputError

LONG = 2048
ROWS = 128  # rows of a roll that keep a CPU's matrix products busy; more blocks than that gain nothing


@dataclass(frozen=True)
class Tree:
    """The blocks and nodes over T time steps.

    Args:
        steps: T >= 1.
        block: K >= 1; more than T counts as T.
    """

    steps: int
    block: int

    def __post_init__(self) -> None:
        """Refuse lengths below one."""
        for name in ("steps", "block"):
            value = getattr(self, name)
            try:
                found = 0 if isinstance(value, bool) else operator.index(value)  # NumPy's integers among them
            except TypeError:
                found = 0
            if found < 1:
                raise InputError(name, repr(value), "an integer >= 1")
            object.__setattr__(self, name, found)

    @property
    def blocks(self) -> int:
        """The number of blocks n."""
        return -(-self.steps // self.block)

    @property
    def levels(self) -> int:
        """The number of levels of a scan over the blocks, ceil(log2 n); also the height of the root."""
        return (self.blocks - 1).bit_length()

    def span(self, height: int, index: int) -> tuple[int, int]:
        """Return the first time step of node `index` of `height`, and the time step after its last."""
        self._known(height, index)
        width = self.block << height
        return index * width, min((index + 1) * width, self.steps)

    def nodes(self, height: int) -> int:
        """Return the number of nodes of `height`."""
        return -(-self.blocks // (1 << height))

    def height(self, boundary: int) -> int:
        """Return the height of the node whose midpoint is `boundary` (1 <= boundary < n), at least 1."""
        if not 1 <= boundary < self.blocks:
            raise InputError("boundary", boundary, f"an integer in 1..{self.blocks - 1}")
        return (boundary & -boundary).bit_length()

    def parents(self, boundary: int) -> tuple[int, int]:
        """Return the boundaries at the ends of the node whose midpoint is `boundary`; the right one is at most n."""
        half = 1 << (self.height(boundary) - 1)
        return boundary - half, min(boundary + half, self.blocks)

    def path(self, block: int) -> list[tuple[int, int]]:
        """Return `(height, index)` of the nodes that contain `block`, from the block up to the root."""
        self._known(0, block)
        return [(h, block >> h) for h in range(self.levels + 1)]

    def depth(self, sweeps: int, corrections: int) -> int:
        """Return the sequential depth of one `hbll` update of one layer: (S + c + 3) K + (S + c + 1) ceil(log2 n).

        The rolls are S sweeps, the local pass, two feedback passes and c corrections. A scan follows each sweep and
        each feedback pass but the last. Backpropagation through time takes 2 T.
        """
        if self.blocks == 1:
            return 2 * self.steps
        return (sweeps + corrections + 3) * self.block + (sweeps + corrections + 1) * self.levels

    def _known(self, height: int, index: int) -> None:
        if not 0 <= height <= self.levels:
            raise InputError("height", height, f"an integer in 0..{self.levels}")
        if not 0 <= index < self.nodes(height):
            raise InputError("index", index, f"an integer in 0..{self.nodes(height) - 1}")


def auto_block(steps: int, batch: int) -> int:
    """Return the block size for `batch` sequences of `steps` time steps.

    It is a power of two, at least 16 (or T), with at least 4 blocks.

    Fewer blocks need fewer sweeps and corrections, but the machine needs enough rows (blocks times sequences). So
    blocks are as long as `ROWS` rows allow. From `LONG` time steps on half as many rows do: there a saved sweep is
    worth more than full tiles (docs/notes/2026-11-24-speed.md).
    """
    rows = ROWS if steps < LONG else ROWS // 2
    block = 16
    while 2 * block * rows <= steps * batch and 8 * block <= steps:
        block *= 2
    return min(block, steps)
