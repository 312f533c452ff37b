"""Stage `correct`: every kernel, CUDA graphs, bfloat16 products, whole steps. Float32 products are exact but where asked."""

import torch

from benchmarks.device import checks_kernels, checks_rolls, checks_rules
from benchmarks.device.jobs import Job


def jobs(device: torch.device, is_dry: bool, matmul: str) -> list[Job]:
    """See the module docstring; `matmul` is not looked at."""
    exact_products()
    return [one for checks in (checks_kernels, checks_rolls, checks_rules) for one in checks.jobs(device, is_dry)]


def exact_products() -> None:
    """No TF32 in products or in cuDNN."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
