"""Recurrent layers compute in the dtype of their weights, whatever `torch.autocast` says.

Compiled rolls read float32. And states or messages rounded to bfloat16 between blocks would not agree to any tolerance.
Where bfloat16 does no harm, in the products inside blocks, the option `precision="bf16"` brings it (`mixed.py`).
"""

import torch
from torch import Tensor


def own_precision(like: Tensor) -> torch.autocast:
    """Return a context in which autocast is off on the device of `like`."""
    return torch.autocast(like.device.type, enabled=False)
