"""What one update of a layer costs on a CPU: a model with few constants, in nanoseconds.

A roll of K steps takes its rows through recurrent products and elementwise formulas. A tile of rows shares every load
of a weight, so few rows wait for loads (slower the further away the weights live) and many for multiply-adds. What all
schedules share, the input's projection, the gradients of the weights, the read-out, is left out: only differences
decide. Constants were fitted to `python -m benchmarks.schedules` (docs/notes/2026-11-28-schedules.md).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A CPU as the model sees it.

    Attributes:
        threads: that rolls may use.
        width: float32 numbers in a vector.
        registers: vector registers.
        l1, l2: bytes of a core's caches.
    """

    threads: int
    width: int
    registers: int
    l1: int = 32 << 10
    l2: int = 1 << 20


@dataclass(frozen=True)
class Constants:
    """Nanoseconds, on one thread.

    Attributes:
        multiply: a vector multiply-add.
        near, far, remote: a vector of weights from the first cache, the second, and beyond.
        element: the formulas of one vector of units, forward.
        back: the same, backward, beside a forward's.
        step: around one step of a roll.
        call: Python and the parallel scans around an update with all blocks at once.
        sweep: the same around one sweep.
    """

    multiply: float = 0.17
    near: float = 0.25
    far: float = 0.45
    remote: float = 1.05
    element: float = 20.0
    back: float = 1.2
    step: float = 30.0
    call: float = 1.0e6
    sweep: float = 0.25e6


FITTED = Constants()


@dataclass(frozen=True)
class Work:
    """One layer's step: `gates` recurrent products of `units` by `units`, `parts` vectors of state."""

    gates: int
    parts: int
    units: int


def step(work: Work, rows: float, machine: Machine, c: Constants = FITTED) -> float:
    """One step of `rows` rows, forward, on as many threads as the rows are shared by."""
    w = machine.width
    units = math.ceil(work.units / w) * w
    tile = max(1, machine.registers * 3 // 4 // max(work.gates, 1))
    share = min(machine.threads, max(1, math.ceil(rows / 4)))
    mine = math.ceil(rows / share)
    vectors = work.gates * units * units / w
    size = 4 * work.gates * units * units
    load = c.near if size <= machine.l1 else c.far if size <= machine.l2 else c.remote
    tiles = math.ceil(mine / tile)
    product = vectors * max(mine * c.multiply, tiles * load)
    return product + mine * units / w * c.element * (1 + 0.25 * work.gates) + c.step


def sequential(
    work: Work, batch: int, steps: int, machine: Machine, *, again: bool = False, c: Constants = FITTED
) -> float:
    """A compiled call each way; with `again` the way there is made twice, since memory was short."""
    return steps * step(work, batch, machine, c) * (1 + again + c.back)


def parallel(
    work: Work, batch: int, steps: int, block: int, machine: Machine, *, sweeps: float, group: int | None = None,
    c: Constants = FITTED,
) -> float:  # fmt: skip
    """Sweeps, a local pass, and two passes back, all blocks at once.

    Args:
        work, batch, steps, machine: what is run, and where.
        block: steps of an execution block.
        sweeps: expected; infinite for exact boundaries by a roll in order.
        group: blocks in flight, which both passes back roll again; None for all.
        c: constants.
    """
    n = math.ceil(steps / block)
    groups = 1 if group is None else math.ceil(n / group)
    one = groups * block * step(work, math.ceil(n / groups) * batch, machine, c)
    found = steps * step(work, batch, machine, c) if math.isinf(sweeps) else sweeps * (one + c.sweep)
    return found + one * (1 + 2 * (groups > 1) + 2 * c.back) + c.call
