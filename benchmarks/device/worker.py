"""Measures on the CPU with the threads it was started with (OMP_NUM_THREADS): a question a line in, an answer a line out."""

import json
import os
import sys
from functools import partial
from typing import Any

import torch

from benchmarks.device import sides
from benchmarks.device.jobs import Clock
from benchmarks.device.timing import Patience, alternate
from benchmarks.rivals import data

PATIENCE, SLOW = 4.0, 0.3  # seconds a step: left out; measured three times only


def answer(question: dict[str, Any], patience: Patience) -> dict[str, Any]:
    """Times of all sides of one shape."""
    cell, (b, t, d) = question["cell"], question["shape"]
    batch, builders = data(b, t), {}
    found: dict[str, dict[str, Any]] = {}
    for name in question["sides"]:
        expected = patience.expect(name, cell, b, t, d)
        if expected > patience.seconds:
            found[name] = {"left_out": f"a step would take about {expected:.0f} s"}
        else:
            builders[name] = partial(sides.make, name, batch, d, cell)
    clock = Clock(question["left"])
    found |= alternate(
        builders, torch.device("cpu"), clock, repeats=question["repeats"], patience=patience.seconds, slow=SLOW
    )
    for name, one in found.items():
        if "seconds" in one:
            patience.learn(name, cell, b, t, d, one["seconds"])
    return {"sides": found, "threads": torch.get_num_threads()}


def main() -> None:
    """Until the questions end."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    patience = Patience(PATIENCE)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), patience), default=str), flush=True)


if __name__ == "__main__":
    main()
