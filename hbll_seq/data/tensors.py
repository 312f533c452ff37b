"""Anything that holds numbers as a tensor on the CPU: where every x, y, lengths and mask comes in.

Data stay on the CPU until their batch is drawn; a batch is small, and lengths are wanted there anyway.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbll_seq.errors import InputError

# torch stores these and cannot compute with them; uint16 is how tokenised text is often kept on disk
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def as_tensor(value: Any, name: str, expected: str = "a tensor, array or list of numbers") -> Tensor:
    """A tensor on the CPU, detached; NumPy memory is shared where it can be written to, copied where not.

    Raises:
        InputError: `value`, which is called `name`, is not numeric, or not something that holds numbers.
    """
    if isinstance(value, Tensor):
        out = value.detach().cpu()
    elif isinstance(value, int | float | Sequence) or hasattr(value, "__array__"):
        try:
            # "C", "W": torch has no negative strides and warns of read-only memory (np.memmap)
            out = torch.from_numpy(np.require(np.asarray(value), requirements=["C", "W"]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(name, f"{type(value).__name__} that is not numeric", f"numbers ({error})") from error
    else:
        raise InputError(name, type(value).__name__, expected)
    return out.to(WIDER.get(out.dtype, out.dtype))
