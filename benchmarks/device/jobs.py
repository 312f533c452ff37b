"""A stage is a list of jobs; each job is one measurement or check, and leaves one line."""

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.device.lines import Lines

FATAL = 3  # exit status of a process whose device has failed: go on in a new one


class Clock:
    """How much of a budget is left.

    Args:
        budget: seconds.
        now: any clock.
    """

    def __init__(self, budget: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._end = now, now() + budget

    def left(self) -> float:
        """Seconds, negative once it is spent."""
        return self._end - self._now()

    def over(self) -> bool:
        """Whether it is spent."""
        return self.left() <= 0


class Job(NamedTuple):
    """One measurement: a name, unique in its stage, and what gives the fields of its line ("broken": see `fatal`)."""

    name: str
    run: Callable[[Clock], dict[str, Any]]


def run_jobs(jobs: Sequence[Job], lines: Lines, clock: Clock, start: int = 0) -> int:
    """Run jobs from the `start`-th on until the budget is spent; the exit status, 0 or `FATAL`.

    An error is a line like any other. Only where it has spoilt the device for good is the process given up.
    """
    for i, job in enumerate(jobs[start:], start):
        if clock.over():
            lines.write(job=i, event="budget spent", left_out=[one.name for one in jobs[i:]])
            print(f"  budget spent; {len(jobs) - i} of {len(jobs)} jobs left out, from {job.name} on", flush=True)
            break
        begun, broken = time.perf_counter(), False
        try:
            found = job.run(clock)
        except Exception as error:  # whatever it is, the next job may still run
            found, broken = {"error": said(error)}, fatal(error)
        broken = broken or bool(found.pop("broken", False))
        line = lines.write(job=i, name=job.name, took=round(time.perf_counter() - begun, 3), **found)
        print(f"  {job.name}: {_short(line)}", flush=True)
        if broken:
            return FATAL
    return 0


def said(error: Exception) -> str:
    """Kind, message and place of an error, in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]} ({where.filename.rpartition('/')[2]}:{where.lineno})"


SPOILT = ("illegal memory", "misaligned address", "launch failure", "device-side assert", "illegal instruction")


def fatal(error: Exception) -> bool:
    """Errors after which a CUDA context gives nothing but the same error."""
    return any(words in str(error).lower() for words in SPOILT)


def _short(line: dict[str, Any]) -> str:
    if "error" in line and isinstance(line["error"], str):
        return line["error"].splitlines()[0][:160]
    if "skipped" in line:
        return f"skipped: {line['skipped']}"
    if "passed" in line:
        return f"{'passed' if line['passed'] else 'FAILED'} ({line['error']:.1e}, at most {line['tolerance']:.0e})"
    if "sides" in line:
        return ", ".join(f"{k} {_side(v)}" for k, v in line["sides"].items())
    if "top" in line:
        top = "".join(f"\n    {one['ms']:9.3f} ms {one['calls']:6} x {one['name']}" for one in line["top"])
        return f"{_side(line['timed'])}, gaps {100 * line['gaps']:.0f} % of the profiled step, {line['launches']}{top}"
    return "done"


def _side(side: dict[str, Any]) -> str:
    return f"{1e3 * side['seconds']:.2f} ms" if "seconds" in side else "-"
