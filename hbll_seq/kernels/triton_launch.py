"""Thread-safe launches of Triton kernels, one at a time, on the device of their tensors.

Triton compiles at the first launch of a kind, and its interpreter replaces functions of `triton.language` while a
kernel runs; neither is thread-safe. The lock is held while a kernel is started, not while a GPU runs it.
"""

import contextlib
import threading
from typing import Any

import torch

_lock = threading.Lock()


def launch(kernel: Any, programs: int, device: torch.device, *arguments: Any, **constants: Any) -> None:
    """Start `programs` programs of a `triton.jit` function; constants are its `tl.constexpr` arguments."""
    # triton launches on the current device
    with _lock, torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[(programs,)](*arguments, **constants)
