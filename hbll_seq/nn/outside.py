"""Calls that a layer leaves to PyTorch's own layer, because the engine cannot serve them or would gain nothing.

They are right there too: malformed input gets PyTorch's errors, an exporter its operators, `torch.func` its rules.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from hbll_seq.cells.inference import transformed

P = ParamSpec("P")
R = TypeVar("R")

TRAINED = (torch.float32, torch.float64)


def outside(tensors: list[Tensor], weight: Tensor) -> bool:
    """Return whether a call is left to PyTorch: under a tracer or transform, or for tensors the engine does not run.

    Args:
        tensors: input and states.
        weight: one of the layer's weights.
    """
    if torch.jit.is_tracing() or torch.jit.is_scripting() or torch.compiler.is_exporting():
        return True
    if transformed():
        return True
    if weight.dtype not in TRAINED or weight.device.type == "meta":
        return True
    plain = all(type(one) in (Tensor, nn.Parameter) for one in (*tensors, weight))
    return not plain or any(one.numel() == 0 for one in tensors)


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` such that `torch.compile` breaks its graph there and runs it as it is.

    `torch.compiler.disable` would import the compiler, which takes seconds, in programs that never use it.
    """
    whole: Any = function

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        disabled = whole.__dict__.get("disabled")
        if disabled is None:
            disabled = whole.disabled = torch._dynamo.disable(function)
        found: R = disabled(*args, **kwargs)
        return found

    return inner
