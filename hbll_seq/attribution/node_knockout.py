"""Knockout credit of every node: exact where that costs about as much, else fast and checked.

The fast way predicts most changed states (`secant.py`), and no prediction holds for every network. So a sample of
nodes is withheld exactly as well: some spread over the blocks and over each height above, and those with the most
credit. Where one of them is wrong by more than `FLOOR` and by more than `SHARE` of the sequence's largest credit, all
are rolled exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.attribution.knockout import knocked_out, knocked_out_exactly
from hbll_seq.attribution.state_maps import StateMaps
from hbll_seq.attribution.withheld import StandIn, combined

EXACT = 128  # blocks: measured, docs/notes/2026-11-28-credit-of-state-tracking.md
FLOOR = 0.01  # nats, or squared units
SHARE = 0.02
SAMPLE, ABOVE = 16, 4  # at least: blocks checked, and nodes of each height above them; an eighth of them if more

StandIns = tuple[StandIn, ...]
Losses = Callable[[Tensor], Tensor]


class Knockout(NamedTuple):
    """Credit `(B, nodes)` a height, how it was found, and the largest error of the fast way (see `Credit`)."""

    nodes: list[Tensor]
    method: str
    error: float


def node_knockout(maps: StateMaps, by: StandIns, loss: Losses, exact: bool | str, most: int) -> Knockout:
    """Return the changes of the outcome's loss with each node withheld.

    Args:
        maps: see `StateMaps`.
        by: stand-ins whose changes are combined.
        loss: the outcome's loss `(..., B)` of final states `(..., B, S)`.
        exact: True, False, or "auto" (exact up to `EXACT` blocks, and where the fast way errs).
        most: states that the fast way rolls where two nodes join.
    """
    if plan_exact(exact, maps.count):
        return Knockout(_changes(maps, by, loss, None), "exact", 0.0)
    nodes = _changes(maps, by, loss, most)
    found = [_compare(maps, by, loss, height, values) for height, values in enumerate(nodes[:-1])]
    error, fine = judge(torch.cat([fast for fast, _ in found], 1), torch.cat([real for _, real in found], 1))
    if fine or exact is False:
        return Knockout(nodes, "fast", error)
    return Knockout(_changes(maps, by, loss, None), "exact instead of fast", error)


def plan_exact(exact: bool | str, blocks: int) -> bool:
    """Say whether all is rolled from the start."""
    return blocks <= EXACT if exact == "auto" else bool(exact)


def judge(fast: Tensor, real: Tensor) -> tuple[float, bool]:
    """Compare fast with exact credit, both `(B, q)`, NaN in both where there is none.

    Returns:
        The largest error, and whether all are small enough.
    """
    away = (fast - real).abs()
    away = away.masked_fill(fast.isnan() & real.isnan(), 0.0)
    bound = (SHARE * real.abs().nan_to_num().amax(1, keepdim=True)).clamp(min=FLOOR)
    return float(away.max()), bool((away <= bound).all())


def sample(values: Tensor, least: int) -> list[int]:
    """Choose nodes to check, of credit `(B, nodes)`: an eighth or `least`, spread over all, and the strongest one."""
    count = values.shape[1]
    most = max(least, count // 8)
    spread = {(2 * i + 1) * count // (2 * most) for i in range(most)}
    return sorted(spread | {int(values.abs().nan_to_num().amax(0).argmax())})


def _changes(maps: StateMaps, by: StandIns, loss: Losses, most: int | None) -> list[Tensor]:
    """Return the credit of all nodes, `(B, nodes)` a height."""
    normal, changes = loss(maps.states[-1]), []  # by stand-in, then by height: (nodes, B)
    for one in by:
        changes.append([loss(states) - normal for states in knocked_out(maps, one, most)])
    return [combined(torch.stack(one), by).T for one in zip(*changes, strict=True)]


def _compare(maps: StateMaps, by: StandIns, loss: Losses, height: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return fast credit `(B, nodes)` and exact credit of a sample of the nodes of a height, both `(B, q)`."""
    numbers, normal = sample(values, SAMPLE if height == 0 else ABOVE), loss(maps.states[-1])
    changes = [loss(knocked_out_exactly(maps, one, height, numbers)) - normal for one in by]
    return values[:, numbers], combined(torch.stack(changes), by).T
