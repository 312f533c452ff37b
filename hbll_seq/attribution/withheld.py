"""Stand-ins: what replaces the input of a withheld node, and how the changes by several of them are combined.

A loss rises when a cause is withheld only if the model then answers something else. A neutral stand-in (the mean input,
or none) leaves the answer that the model gives by default; where that is the right one, the cause seems to have had no
effect. The input of another sequence, a donor, leads to another answer; but where causes stand at different steps, the
donor may bring in a cause of its own. The median over donors is free of that as long as fewer than half of them have a
cause in the same place. "mean+swap" averages the change by the mean input and the median change by donors: each is
right where the other may fail (docs/notes/2026-11-24-credit.md has the figures).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.scalars import choice, integer
from hbll_seq.errors import InputError

WITHHELD = ("mean+swap", "mean", "skip", "swap", "zero")
DONORS = 7  # measured: benchmarks.credit


class StandIn(NamedTuple):
    """One replacement for a withheld input.

    Attributes:
        how: "mean", "zero", "skip" or "swap".
        shift: of "swap": which donor, from 1; without a background the sequence `shift` rows before.
    """

    how: str
    shift: int = 0


def stand_ins(
    withheld: str | None, donors: int, others: int, default: str, where: str = "x"
) -> tuple[StandIn, ...]:  # fmt: skip
    """Check `withheld` and `donors` and return the stand-ins they select.

    Args:
        withheld: one of `WITHHELD`, or None for `default`.
        donors: sequences swapped in, at most `others` of them.
        others: sequences there are to be swapped in for each one.
        default: taken for None; "mean+swap" becomes "mean" where `others` are fewer than `donors`.
        where: the argument they come from, for errors.

    Raises:
        InputError: an unknown `withheld`, `donors` below one, or a swap with no other sequence.
    """
    donors = integer("donors", donors)
    if withheld is None:
        withheld = "mean" if default == "mean+swap" and others < donors else default
    choice("withheld", withheld, WITHHELD)
    if "swap" not in withheld:
        return (StandIn(withheld),)
    if others < 1:
        came, expected = ("one sequence", "two or more") if where == "x" else ("no other sequence than x", "others")
        raise InputError(where, came, f'{expected}, for withheld="{withheld}"')
    swaps = tuple(StandIn("swap", shift) for shift in range(1, 1 + min(donors, others)))
    return swaps if withheld == "swap" else (StandIn("mean"), *swaps)


def combined(changes: Tensor, by: tuple[StandIn, ...]) -> Tensor:
    """Combine changes of the loss `(W, ...)`, one a stand-in: the mean of the median over donors and of the others."""
    swaps = [k for k, one in enumerate(by) if one.how == "swap"]
    parts = [changes[k] for k, one in enumerate(by) if one.how != "swap"]
    if swaps:
        ordered = changes[swaps].sort(0).values
        parts.append((ordered[(len(swaps) - 1) // 2] + ordered[len(swaps) // 2]) / 2)
    return torch.stack(parts).mean(0)
