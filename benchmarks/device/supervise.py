"""Runs a stage in a process of its own, and in a new one after the job that killed it.

A kernel that has never run on a GPU may kill its process, spoil the device for it, or hang. None of that may cost more
than its own job: what was found is on disk (`lines`), the job is named in a line, and the next process goes on behind it.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.device.jobs import FATAL, Clock
from benchmarks.device.lines import Lines, read

SILENCE = 150.0  # seconds without a new line after which a process counts as hung
DEATHS = 3  # processes in a row that died without a result, after which the stage is given up
GRACE = 60.0  # seconds that the job running when the budget ends may take to come to its end
POLL = 0.2

Command = Callable[[int, float], list[str]]  # first job, seconds left -> command line


def supervise(command: Command, lines: Lines, budget: float, *, silence: float = SILENCE, grace: float = GRACE) -> bool:
    """Run until the stage is done or its budget and grace are spent; whether it came to its end by itself."""
    clock, start, deaths = Clock(budget), 0, 0
    while not clock.over() and deaths < DEATHS:
        status = _watched(command(start, clock.left()), lines, clock, silence, grace)
        after = max(start, 1 + last_job(lines.path, lines.common))
        if status == 0:
            return True
        if status != FATAL:  # that one has written its line
            why = status if isinstance(status, str) else f"its process ended with status {status}"
            lines.write(job=after, event="died", why=why)
            print(f"  job {after} died: {why}", flush=True)
            deaths = deaths + 1 if after == start else 1
            after += 1
        start = after
    return False


def last_job(path: pathlib.Path, common: dict[str, object]) -> int:
    """The highest job of this run and stage that left a line, or -1."""
    mine = ("run", "stage")
    return max(
        (one["job"] for one in read(path) if all(one.get(k) == common[k] for k in mine) and "job" in one), default=-1
    )


def _watched(command: list[str], lines: Lines, clock: Clock, silence: float, grace: float) -> int | str:
    """The exit status of a process, or why it was killed."""
    process = subprocess.Popen(command, process_group=0)  # a group of its own, to be ended with what it started
    try:
        size, since = -1, time.monotonic()
        while True:
            try:
                return process.wait(POLL)
            except subprocess.TimeoutExpired:
                now = lines.path.stat().st_size if lines.path.exists() else 0
                if now != size:
                    size, since = now, time.monotonic()
            if clock.left() < -grace:
                return "it did not end with the budget"
            if time.monotonic() - since > silence:
                return f"no line for {silence:.0f} s"
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def python(module: str, *arguments: object) -> list[str]:
    """Command line that runs a module in this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]
