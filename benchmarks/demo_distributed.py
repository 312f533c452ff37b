"""Two processes train on one sequence of 65,536 time steps, each on its half; beside them one process on the whole.

`make demo-distributed`. The task: tell at every time step whether the sum of the inputs so far, with a slow leak, is
positive. Both sides make the same updates, so the losses agree; the table says how long they took.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

import hbll_seq as hs
from benchmarks.scale import processes

UNITS = 64


def series(steps: int) -> tuple[Tensor, Tensor]:
    """Return inputs `(1, T, 4)` and targets `(1, T)`."""
    x = torch.randn(1, steps, 4, generator=torch.Generator().manual_seed(0))
    leak, y, level = 0.98, torch.zeros(1, steps, dtype=torch.int64), 0.0
    for t, one in enumerate(x[0, :, 0].tolist()):
        level = leak * level + one
        y[0, t] = int(level > 0)
    return x, y


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = hs.nn.GRU(4, UNITS, batch_first=True), nn.Linear(UNITS, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def train(rank: int, steps: int, updates: int, parallel: dict[str, int] | None) -> dict[str, Any]:
    """Train by `fit`; return the first and last loss, seconds, and what an update sent."""
    x, y = series(steps)
    model = Tagger()
    began = time.perf_counter()
    run = hs.fit(
        model, x, y, loss="cross_entropy", rule="bptt", steps=updates + 1, batch_size=1, lr=1e-2, progress=False,
        schedule="constant", parallel=parallel,
    ).history  # fmt: skip
    whole = time.perf_counter() - began
    each = (run["seconds"][-1] - run["seconds"][0]) / updates  # the first update compiles
    sent = (run["collectives"][-1], run["bytes_sent"][-1], run["seconds_waiting"][-1]) if parallel else (0, 0, 0.0)
    return {"losses": (run["loss"][0], run["loss"][-1]), "update": each, "whole": whole, "sent": sent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=65536)
    parser.add_argument("--updates", type=int, default=20)
    a = parser.parse_args()
    sides = {
        "one process, one thread": processes(1, train, a.steps, a.updates, None)[0],
        "two processes, one thread each": processes(2, train, a.steps, a.updates, {"time": 2})[0],
    }
    print(f"\n{a.steps:,} time steps, GRU of {UNITS} units, {a.updates} updates\n")
    print(
        "| | ms an update | first loss | last loss | collectives | bytes sent | ms waiting |\n|---|---|---|---|---|---|---|"
    )
    for name, found in sides.items():
        (first, last), (calls, sent, waiting) = found["losses"], found["sent"]
        print(
            f"| {name} | {found['update'] * 1e3:.0f} | {first:.6f} | {last:.6f} | {calls:.0f} | {sent:.0f} | {waiting * 1e3:.0f} |"
        )
    one, two = sides.values()
    print(
        f"\n{one['update'] / two['update']:.2f} times as fast; losses differ by {abs(one['losses'][1] - two['losses'][1]):.1e}"
    )


if __name__ == "__main__":
    main()
