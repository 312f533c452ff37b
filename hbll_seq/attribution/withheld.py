"""What a node has in place of its input, and what several such stand-ins say together.

A loss rises when a cause is withheld only if the model then answers something else. An input that says nothing (the
mean, or none at all) leaves the answer a model gives by default, which is sometimes the right one; the cause then seems
to have done nothing. The input of another sequence, a donor, says something else, but where causes stand at different
steps it brings in a cause of its own. The median over donors is free of that as long as fewer than half of them have a
cause in the same place. "mean+swap" is the average of the two answers, each right where the other may fail
(docs/notes/2026-11-24-credit.md has the figures).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.scalars import choice, integer
from hbll_seq.errors import InputError

WITHHELD = ("mean+swap", "mean", "skip", "swap", "zero")
DONORS = 7  # measured: benchmarks.credit


class Way(NamedTuple):
    """One stand-in: "mean", "zero", "skip", or "swap" with the sequence `shift` rows before as the donor."""

    how: str
    shift: int = 0


def ways_of(withheld: str | None, donors: int, rows: int, default: str) -> tuple[Way, ...]:
    """The stand-ins, checked.

    Args:
        withheld: one of `WITHHELD`, or None for `default`.
        donors: sequences swapped in, at most `rows - 1` of them.
        rows: sequences of the batch.
        default: "mean+swap" stands for "mean" in a batch of `donors` sequences or fewer.
    """
    donors = integer("donors", donors)
    if withheld is None:
        withheld = "mean" if default == "mean+swap" and rows <= donors else default
    choice("withheld", withheld, WITHHELD)
    if "swap" not in withheld:
        return (Way(withheld),)
    if rows < 2:
        raise InputError("x", "one sequence", f'two or more, for withheld="{withheld}"')
    swaps = tuple(Way("swap", shift) for shift in range(1, 1 + min(donors, rows - 1)))
    return swaps if withheld == "swap" else (Way("mean"), *swaps)


def combined(changes: Tensor, ways: tuple[Way, ...]) -> Tensor:
    """Changes of the loss `(W, ...)`, one for each way: the median over donors, then the mean over what is left."""
    swaps = [k for k, way in enumerate(ways) if way.how == "swap"]
    parts = [changes[k] for k, way in enumerate(ways) if way.how != "swap"]
    if swaps:
        ordered = changes[swaps].sort(0).values
        parts.append((ordered[(len(swaps) - 1) // 2] + ordered[len(swaps) // 2]) / 2)
    return torch.stack(parts).mean(0)
