"""A cost model of one update of a layer on a CPU: few constants, in nanoseconds.

A roll of K time steps takes its rows through recurrent products and elementwise formulas. A tile of rows shares every
load of a weight. So few rows wait for loads (slower the further away the weights are), and many for multiply-adds.
Threads share rows, or the units of every time step if rows are few and layers wide; then they meet after every time
step. Costs common to all schedules are left out, because only differences decide: the input's projection, the gradients
of the weights, the read-out. Constants were fitted to `python -m benchmarks.schedules`
(docs/notes/2026-11-28-schedules.md).
"""

import math
from dataclasses import dataclass

from hbll_seq.kernels.emit import EVEN
from hbll_seq.kernels.machine import units_pay


@dataclass(frozen=True)
class Machine:
    """The properties of a CPU that the model uses.

    Attributes:
        threads: threads that rolls may use.
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
    """Constants in nanoseconds, on one thread.

    Attributes:
        multiply: a vector multiply-add.
        near, far, remote: a vector of weights from the first cache, the second, and beyond.
        element: the formulas of one vector of units, forward.
        back: the same, backward, in addition to a forward's.
        step: overhead of one time step of a roll.
        meet: a thread's part in a meeting of all after a time step.
        traffic: memory traffic of all blocks at once beside the rolls, per vector of units, time step and row.
        call: Python and the scans around an update with all blocks at once.
        sweep: the same for one sweep.
    """

    multiply: float = 0.559
    near: float = 0.015
    far: float = 0.872
    remote: float = 1.15
    element: float = 41.9
    back: float = 0.279
    step: float = 0.1
    meet: float = 240.0
    traffic: float = 12.2
    call: float = 0.556e6
    sweep: float = 0.398e6


FITTED = Constants()


GROUPED = 1.6  # groups also compute the loss in every pass: measured at (1, 262144, 64), 256 MB


@dataclass(frozen=True)
class Work:
    """The work of one layer's time step: `gates` recurrent products of `units` by `units`, `parts` vectors of state."""

    gates: int
    parts: int
    units: int


def step(work: Work, rows: int, machine: Machine, c: Constants = FITTED) -> float:
    """Estimate one time step of `rows` rows, forward, by all threads that have work."""
    w, gates = machine.width, work.gates
    units = math.ceil(work.units / w) * w
    by_units = units_pay(rows, units, machine.threads)
    by_rows = 1 if by_units or rows <= EVEN else machine.threads
    mine = math.ceil(rows / (by_rows * EVEN)) * EVEN if by_rows > 1 else rows
    part = machine.threads if by_units else 1  # of the units, and of the weights
    size = 4 * gates * units * units / part
    load = c.near if size <= machine.l1 else c.far if size <= machine.l2 else c.remote
    tile = max(1, machine.registers * 3 // 4 // max(gates, 1))
    product = gates * units * units / w / part * max(mine * c.multiply, math.ceil(mine / tile) * load)
    element = mine * units / w / part * c.element * (1 + 0.25 * gates)
    return product + element + c.step + by_units * machine.threads * c.meet


def sequential(
    work: Work, batch: int, steps: int, machine: Machine, *, again: bool = False, c: Constants = FITTED
) -> float:
    """Estimate a compiled call each way; with `again` the forward roll is made twice, because memory was short."""
    return steps * step(work, batch, machine, c) * (1 + again + c.back)


def parallel(
    work: Work, batch: int, steps: int, block: int, machine: Machine, *, sweeps: float, group: int | None = None,
    c: Constants = FITTED,
) -> float:  # fmt: skip
    """Estimate sweeps, a local pass and two passes back, all blocks at once.

    Args:
        work, batch, steps, machine: the work and its machine.
        block: time steps of an execution block.
        sweeps: expected number; infinite for exact boundaries by a roll in order.
        group: blocks in flight, which both backward passes roll again; None for all.
        c: constants.
    """
    n = math.ceil(steps / block)
    groups = 1 if group is None else math.ceil(n / group)
    rows = math.ceil(n / groups) * batch
    one = groups * block * step(work, rows, machine, c)
    moved = steps * batch * work.units / machine.width * c.traffic
    found = steps * step(work, batch, machine, c) if math.isinf(sweeps) else sweeps * (one + c.sweep)
    whole = found + one * (1 + 2 * (groups > 1) + 2 * c.back) + moved + c.call
    return whole * GROUPED if groups > 1 else whole
