"""The precision of recurrent layers: the dtype of their weights, whatever `torch.autocast` sets.

Compiled rolls read float32. Also, states or messages rounded to bfloat16 between blocks would not agree to any
tolerance. Products inside blocks bear bfloat16: the option `precision="bf16"` uses it there (`mixed.py`).
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def own_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off on the device of `like`."""
    kind = like.device.type
    # a context of autocast takes microseconds, a good part of a single time step
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
