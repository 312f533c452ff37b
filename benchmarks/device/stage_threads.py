"""Stage `cpu-threads`: the CPU's table with 1, 2, 4, 8 and 16 threads, each number in a process of its own (`worker`)."""

import json
import os
import subprocess
from functools import partial
from typing import Any

import torch

from benchmarks.device.jobs import Clock, Job
from benchmarks.device.stage_speed import title
from benchmarks.device.supervise import python
from benchmarks.device.where import cores

THREADS = (1, 16, 4, 2, 8)  # the ends first
SIDES = ("nn", "one call", "parallel", "default")
GRU = [(1, 4096, 64), (1, 4096, 256), (8, 4096, 128), (1, 1024, 1024), (1, 1024, 64), (32, 1024, 128), (1, 4096, 128),
       (64, 256, 256), (1, 4096, 512), (8, 4096, 64), (1, 16384, 64)]  # fmt: skip
LSTM = [(1, 4096, 64), (1, 4096, 256), (8, 4096, 128), (64, 256, 256)]
DRY = [(1, 16, 4)]


class Workers:
    """Processes by number of threads, started when first asked; their questions, and so they, end with this process."""

    def __init__(self) -> None:
        self._by_threads: dict[int, subprocess.Popen[str]] = {}

    def ask(self, threads: int, **question: Any) -> dict[str, Any]:
        """One question, one answer; those that are not asked sleep."""
        if threads not in self._by_threads:
            self._by_threads[threads] = subprocess.Popen(
                python("benchmarks.device.worker"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            )  # fmt: skip
        one = self._by_threads[threads]
        assert one.stdin is not None and one.stdout is not None
        one.stdin.write(json.dumps(question) + "\n")
        one.stdin.flush()
        answer = one.stdout.readline()
        if not answer:
            del self._by_threads[threads]
            raise RuntimeError(f"the process with {threads} threads ended with status {one.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """One job for every cell, shape and number of threads; an LSTM's shape behind every second of the GRU's."""
    rows = [("gru", *one) for one in (DRY if is_dry else GRU)]
    for i, one in enumerate([] if is_dry else LSTM):
        rows.insert(3 * i + 2, ("lstm", *one))
    workers, found = Workers(), []
    for row in rows:
        for threads in (1, 2) if is_dry else THREADS:
            name = f"{title(*row)}, {threads} threads"
            found.append(Job(name, partial(measure, workers, is_dry, threads, *row)))
    return found


def measure(
    workers: Workers, is_dry: bool, threads: int, cell: str, b: int, t: int, d: int, clock: Clock
) -> dict[str, Any]:
    """All sides of one row with so many threads."""
    fields = {"cell": cell, "shape": {"B": b, "T": t, "d": d}, "threads": threads, "dtype": "float32", "device": "CPU"}
    if threads > cores():
        return {"skipped": f"{threads} threads on {cores()} cores", **fields}
    question = dict(cell=cell, shape=[b, t, d], sides=SIDES, repeats=2 if is_dry else 5, left=clock.left())
    return fields | workers.ask(threads, **question)
