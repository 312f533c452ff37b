"""Averages of gradients over ranks, for loops without `DistributedDataParallel`."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from hbll_seq.distributed.group import Group, as_group


def average_gradients(parameters: Iterable[nn.Parameter], group: Any = None) -> None:
    """Average `.grad` over ranks, in one collective; for loops without `DistributedDataParallel`.

    Args:
        parameters: the same on all ranks. One without a gradient counts as zero.
        group: as for `time_sharded`; None for all processes.
    """
    average(list(parameters), Group(as_group(group)))


def average(parameters: Sequence[nn.Parameter], group: Group) -> None:
    """Do `average_gradients` by a group."""
    wanted = [p for p in parameters if p.requires_grad]
    if group.size == 1 or not wanted:
        return
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for p in wanted:
        by_dtype.setdefault(p.dtype, []).append(p)
    for some in by_dtype.values():
        flat = torch.cat([torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1) for p in some])
        flat = group.sum(flat).div_(group.size)
        for p, one in zip(some, flat.split([p.numel() for p in some]), strict=True):
            p.grad = one.view_as(p).clone()
