"""Tasks with an exact answer, drawn fresh: `x, y = recall(batch, steps, symbols, generator)`.

Each function draws from its generator argument, on that generator's device, and never from
the global one. So a benchmark can take new data at every update and still be repeatable.
`synthetic_sets.py` has the fixed sets that `load` returns.
"""

import torch
from torch import Generator, Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError

IGNORE = -100  # the ignore_index of torch.nn.functional.cross_entropy


def recall(
    batch: int, steps: int, symbols: int, generator: Generator, distractors: str = "own"
) -> tuple[Tensor, Tensor]:
    """Make sequences whose answer is their first symbol: credit lies as far back as it can.

    If the distractors have an alphabet of their own, the input identifies the cue. In the cue's
    own alphabet only the position identifies it; a GRU does not learn that by BPTT in hundreds
    of updates, even at 128 symbols.

    Args:
        batch: number of sequences, at least 1.
        steps: length, at least 1.
        symbols: alphabet size, at least 2.
        generator: source of randomness.
        distractors: "own" (later symbols in `symbols .. 2 * symbols - 1`) or "same".

    Returns:
        x `(batch, steps)` int64; y `(batch,)` int64 in `0 .. symbols - 1`, equal to `x[:, 0]`.

    Raises:
        InputError: a number below its minimum, or unknown `distractors`.
    """
    _at_least(batch=(batch, 1), steps=(steps, 1), symbols=(symbols, 2))
    if distractors not in ("own", "same"):
        raise InputError("distractors", repr(distractors), '"own" or "same"')
    x = torch.randint(symbols, (batch, steps), generator=generator, device=generator.device)
    if distractors == "own":
        x[:, 1:] += symbols
    return x, x[:, 0].clone()


def adding(batch: int, steps: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Make sequences with two marked numbers, whose sum is the answer (Hochreiter and Schmidhuber, 1997).

    Args:
        batch: number of sequences, at least 1.
        steps: length, at least 2.
        generator: source of randomness.

    Returns:
        x `(batch, steps, 2)` float32: a value uniform in [0, 1), and a marker that is 1 at one
        step of the first half and one of the second (which has the middle step of an odd length),
        0 elsewhere; y `(batch, 1)` float32, the sum of the two marked values.

    Raises:
        InputError: a number below its minimum.
    """
    _at_least(batch=(batch, 1), steps=(steps, 2))
    device, half = generator.device, steps // 2
    values = torch.rand(batch, steps, generator=generator, device=device, dtype=torch.float32)
    first = torch.randint(half, (batch, 1), generator=generator, device=device)
    second = torch.randint(half, steps, (batch, 1), generator=generator, device=device)
    where = torch.cat([first, second], dim=1)  # (B, 2)
    marker = torch.zeros_like(values).scatter_(1, where, 1.0)  # (B, T)
    return torch.stack([values, marker], dim=2), values.gather(1, where).sum(1, keepdim=True)


def copy(batch: int, steps: int, length: int, symbols: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Make sequences whose pattern must be repeated after a wait: several things to hold at once.

    Args:
        batch: number of sequences, at least 1.
        steps: total length, at least `2 * length + 1`.
        length: length of the pattern, at least 1.
        symbols: alphabet size, at least 2; two more mark blank (`symbols`) and go (`symbols + 1`).
        generator: source of randomness.

    Returns:
        x `(batch, steps)` int64: the pattern, blanks, one go, and `length` blanks, the recall window;
        y `(batch, steps)` int64: the pattern in the recall window, -100 (ignored) before it.

    Raises:
        InputError: a number below its minimum.
    """
    _at_least(batch=(batch, 1), length=(length, 1), symbols=(symbols, 2), steps=(steps, 2 * length + 1))
    device = generator.device
    pattern = torch.randint(symbols, (batch, length), generator=generator, device=device)
    x = torch.full((batch, steps), symbols, dtype=torch.int64, device=device)
    x[:, :length] = pattern
    x[:, steps - length - 1] = symbols + 1
    y = torch.full_like(x, IGNORE)
    y[:, steps - length :] = pattern
    return x, y


def parity(batch: int, steps: int, generator: Generator, per_step: bool = True) -> tuple[Tensor, Tensor]:
    """Make bits whose answer is whether the number of ones is odd: every time step matters, and no average helps.

    Args:
        batch: number of sequences, at least 1.
        steps: length, at least 1.
        generator: source of randomness.
        per_step: ask at every time step, or only at the end.

    Returns:
        x `(batch, steps)` int64 bits; y int64: `(batch, steps)`, the parity of the bits up to and
        including each time step, or `(batch,)`, the parity of all bits.

    Raises:
        InputError: a number below its minimum.
    """
    _at_least(batch=(batch, 1), steps=(steps, 1))
    x = torch.randint(2, (batch, steps), generator=generator, device=generator.device)
    running = x.cumsum(1) % 2
    return x, running if per_step else running[:, -1].clone()


def _at_least(**numbers: tuple[int, int]) -> None:
    """Raise an InputError for the first `name=(value, minimum)` below its minimum."""
    for name, (value, minimum) in numbers.items():
        integer(name, value, minimum)
