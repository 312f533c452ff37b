"""Stage `correct`: every kernel, CUDA graphs, bfloat16 products, whole steps."""

import torch

from benchmarks.device import checks_kernels, checks_rolls, checks_rules
from benchmarks.device.jobs import Job


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """All checks, of what is smallest and stands alone first."""
    return [one for checks in (checks_kernels, checks_rolls, checks_rules) for one in checks.jobs(device, is_dry)]
