"""Times of training steps, sides alternating; peak memory on a GPU."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.device.jobs import Clock, fatal, said
from benchmarks.device.sides import Step
from hbll_seq.kernels import buffers

PER_JOB = 60.0  # seconds after which no new round of one shape is begun


class Patience:
    """What not to measure, from what was measured before.

    A step takes at least as long as one of the same side with no more sequences and units; over time it is taken to grow in
    proportion, which is right for loops, the only sides that get slow.

    Args:
        seconds: that one step may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[tuple[str, str], list[tuple[int, int, int, float]]] = {}

    def expect(self, side: str, cell: str, b: int, t: int, d: int) -> float:
        """Seconds that a step will take at least."""
        seen = self._seen.get((side, cell), [])
        return max((s * t / t0 for b0, t0, d0, s in seen if b0 <= b and t0 <= t and d0 <= d), default=0.0)

    def learn(self, side: str, cell: str, b: int, t: int, d: int, seconds: float) -> None:
        """Remember a measured step."""
        self._seen.setdefault((side, cell), []).append((b, t, d, seconds))


def synchronise(device: torch.device) -> None:
    """Wait for what was started."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(one: Step, device: torch.device) -> tuple[float, dict[str, Any]]:
    """Seconds of one step, waited for before and after, and its metrics."""
    synchronise(device)
    start = time.perf_counter()
    metrics = one()
    synchronise(device)
    return time.perf_counter() - start, metrics


def forget(device: torch.device) -> None:
    """Free what earlier shapes left: garbage, the package's work buffers, the allocator's cache."""
    gc.collect()
    getattr(buffers, "_waiting", []).clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def first(build: Callable[[], Step], device: torch.device) -> tuple[Step, dict[str, Any]]:
    """Build a side and make its first two steps: what they need of memory, and what the second takes of time."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    one = build()
    begun, _ = once(one, device)  # libraries, compiled kernels, recordings
    seconds, metrics = once(one, device)
    found: dict[str, Any] = {
        "seconds": seconds,
        "repeats": 1,
        "metrics": metrics,
        "first_two": [begun, seconds],
        "times": [],
    }
    if cuda:
        found["peak_mib"] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return one, found


def alternate(
    builders: Mapping[str, Callable[[], Step]], device: torch.device, clock: Clock, *,
    repeats: int = 5, patience: float = 4.0, slow: float = math.inf,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Median seconds of a step of each side, with its metrics; or why there is none; "broken" beside them see `fatal`.

    Args:
        builders: what builds each side.
        device: whose work is waited for.
        clock: of the stage; once it is over no side and no round is begun.
        repeats: rounds.
        patience: seconds; a side whose step takes longer is left at its second step.
        slow: seconds; a side whose step takes longer is in three rounds only.
    """
    forget(device)
    steps: dict[str, Step] = {}
    found: dict[str, dict[str, Any]] = {}
    for name, build in builders.items():
        if clock.over():
            found[name] = {"left_out": "budget spent"}
            continue
        try:
            steps[name], found[name] = first(build, device)
        except Exception as error:  # too little memory, a kernel that does not compile: the others go on
            found[name] = {"left_out": said(error)}
            if fatal(error):
                return found | {"broken": found[name]}
        if name not in steps:
            forget(device)
    end = Clock(PER_JOB)
    for i in range(repeats):
        for name, one in steps.items():
            side = found[name]
            most = min(patience, slow if i >= 3 else math.inf)
            if clock.over() or end.over() or side["first_two"][1] > most or "left_out" in side:
                continue
            try:
                seconds, side["metrics"] = once(one, device)
                side["times"].append(seconds)
            except Exception as error:
                side["left_out"] = said(error)
                if fatal(error):
                    return found | {"broken": side}
    for side in found.values():
        if side.get("times"):
            side |= {"seconds": statistics.median(side["times"]), "repeats": len(side["times"])}
    return found
