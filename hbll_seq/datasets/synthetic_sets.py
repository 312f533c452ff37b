"""The synthetic tasks as fixed, seeded sets with their causes, for `load`."""

import torch
from torch import Generator

from hbll_seq.data.scalars import check_seed, flag
from hbll_seq.datasets import synthetic
from hbll_seq.datasets.sequences import Sequences


def load_recall(
    steps: int = 128, symbols: int = 8, n: int = 2048, seed: int = 0, distractors: str = "own"
) -> Sequences:
    """Load `synthetic.recall`: x `(n, steps)` int64, y `(n,)` the first symbol; cause `(n,)`, all 0."""
    x, y = synthetic.recall(n, steps, symbols, _generator(seed), distractors)
    size = 2 * symbols if distractors == "own" else symbols
    return Sequences.of_classes(x, y, "sequence", size, symbols, torch.zeros(n, dtype=torch.int64))


def load_adding(steps: int = 128, n: int = 2048, seed: int = 0) -> Sequences:
    """Load `synthetic.adding`: x `(n, steps, 2)` float32, y `(n, 1)`; cause `(n, 2)`, the marked time steps."""
    x, y = synthetic.adding(n, steps, _generator(seed))
    return Sequences(
        x=x,
        y=y,
        lengths=None,
        task="sequence",
        loss="mse",
        input_size=2,
        classes=1,
        # nonzero goes row by row, left to right, and each row has exactly two marks.
        cause=x[:, :, 1].nonzero()[:, 1].view(n, 2),
    )


def load_copy(steps: int = 128, length: int = 8, symbols: int = 8, n: int = 2048, seed: int = 0) -> Sequences:
    """Load `synthetic.copy`: x, y `(n, steps)` int64; cause `(n, length)`.

    The answer at time step `steps - length + j` depends on time step `cause[:, j]`, which is j.
    """
    x, y = synthetic.copy(n, steps, length, symbols, _generator(seed))
    return Sequences.of_classes(x, y, "step", symbols + 2, symbols, torch.arange(length).repeat(n, 1))


def load_parity(steps: int = 128, per_step: bool = True, n: int = 2048, seed: int = 0) -> Sequences:
    """Load `synthetic.parity`: x `(n, steps)` bits, y `(n, steps)` or `(n,)`; cause `(n, steps)`.

    Every time step up to the answer's is a cause.
    """
    x, y = synthetic.parity(n, steps, _generator(seed), flag("per_step", per_step))
    return Sequences.of_classes(x, y, "step" if per_step else "sequence", 2, 2, torch.arange(steps).repeat(n, 1))


def _generator(seed: int) -> Generator:
    """Make a separate generator, so that loading data never moves the global one."""
    return Generator().manual_seed(check_seed(seed))
