"""Which stages there are, in the order they run."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from benchmarks.device import stage_correct, stage_profile, stage_speed, stage_threads
from benchmarks.device.jobs import Job


class Stage(NamedTuple):
    """Its jobs, the seconds it gets, and what it is for. A minute of grace (`supervise`) keeps it below eight."""

    jobs: Callable[[torch.device, bool], list[Job]]
    budget: float
    what: str
    matmul: str | None = None  # how float32 is multiplied there, where that is not the command line's to say


STAGES = {
    "correct": Stage(
        stage_correct.jobs, 300, "every kernel against float64 on the CPU; steps of hbll against BPTT", "ieee"
    ),
    "gpu-speed": Stage(stage_speed.jobs, 400, "one training step beside cuDNN's layers and other rivals; peak memory"),
    "profile": Stage(stage_profile.jobs, 120, "one hbll step: top kernels, launches, gaps"),
    "cpu-threads": Stage(stage_threads.jobs, 400, "the CPU's table with 1, 2, 4, 8 and 16 threads"),
}
