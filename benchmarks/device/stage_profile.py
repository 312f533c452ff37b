"""Stage `profile`: one training step under torch.profiler: top kernels, launches, how long the device waits for Python."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.device import sides
from benchmarks.device.jobs import Clock, Job
from benchmarks.device.stage_speed import title
from benchmarks.device.timing import alternate, first, once
from benchmarks.rivals import data

SHAPES = [("gru", 1, 4096, 256), ("gru", 8, 4096, 128), ("lstm", 1, 4096, 256)]
DRY_SHAPES = [("gru", 1, 16, 4), ("gru", 2, 16, 4), ("lstm", 1, 16, 4)]
SIDES = ("parallel", "default")
TOP = 15


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """One job a shape and side."""
    shapes = DRY_SHAPES if is_dry else SHAPES
    return [Job(f"{side} {title(*one)}", partial(measure, device, side, *one)) for side in SIDES for one in shapes]


def measure(device: torch.device, side: str, cell: str, b: int, t: int, d: int, clock: Clock) -> dict[str, Any]:
    """Time it, then profile one step more."""
    batch = data(b, t).to(device)
    build = partial(sides.make, side, batch, d, cell)
    timed = alternate({side: build}, device, clock)[side]
    step, _ = first(build, device)
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as recorded:
        seconds, _ = once(step, device)
    found = {"side": side, "cell": cell, "shape": {"B": b, "T": t, "d": d}, "dtype": "float32"}
    return found | {"timed": timed} | summary(list(recorded.events() or []), seconds, cuda)


def summary(events: list[Any], seconds: float, cuda: bool) -> dict[str, Any]:
    """What the profile says; on a CPU operations stand for kernels.

    The share of gaps is the time in which no kernel ran over that of the profiled step, which the profiler makes longer:
    `timed` has the step's own time, and `busy_seconds` over that is the other way to read it.
    """
    host = [one for one in events if one.device_type == DeviceType.CPU]
    work = [one for one in events if one.device_type == DeviceType.CUDA] if cuda else host
    outer = work if cuda else [one for one in host if one.cpu_parent is None]
    busy = union((one.time_range.start, one.time_range.end) for one in outer) / 1e6
    total: Counter[str] = Counter()
    for one in work:
        total[one.name] += one.time_range.elapsed_us() if cuda else one.self_cpu_time_total
    count = Counter(one.name for one in work)
    launches = Counter(one.name for one in host if "Launch" in one.name)
    return {
        "profiled_seconds": seconds, "busy_seconds": busy, "gaps": max(0.0, 1 - busy / seconds),
        "launches": dict(launches), "operations": len(work),
        "top": [{"name": name[:90], "ms": us / 1e3, "calls": count[name]} for name, us in total.most_common(TOP)],
    }  # fmt: skip


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the time that is in any of the intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total
