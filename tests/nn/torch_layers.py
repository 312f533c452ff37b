"""Comparison of a layer with PyTorch's: outputs, last states, every gradient."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from hbll_seq import nn as hnn

KINDS = {"GRU": (nn.GRU, hnn.GRU), "LSTM": (nn.LSTM, hnn.LSTM), "RNN": (nn.RNN, hnn.RNN)}
TIGHT = {"tolerance": 1e-24, "feedback_tolerance": 1e-24}


def tensors(found: Any) -> list[torch.Tensor]:
    """Every tensor of a result, in order."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, PackedSequence):
        return [found.data]
    return [one for part in found for one in tensors(part)]


def pair(kind: str, *args: Any, options: dict[str, Any], **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """PyTorch's layer and ours, with the same weights."""
    theirs, ours = (make(*args, **kwargs, **more) for make, more in zip(KINDS[kind], ({}, options), strict=True))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def run(layer: nn.Module, inputs: list[Any], *, wanted: list[torch.Tensor] = (), seed: int = 0) -> list[torch.Tensor]:
    """Outputs and states, then the gradients of a random sum of them on `wanted` and on the weights."""
    torch.manual_seed(seed)  # dropout
    found = tensors(layer(*inputs))
    draws = torch.Generator().manual_seed(seed)
    loss = sum((one * torch.randn(one.shape, generator=draws, dtype=torch.float64).to(one)).sum() for one in found)
    grads = torch.autograd.grad(loss, [*wanted, *layer.parameters()], allow_unused=True, retain_graph=True)
    return [*(one.detach() for one in found), *(torch.zeros(()) if g is None else g for g in grads)]


def schedules() -> list[dict[str, Any]]:
    """Options that force every execution, in blocks of 1, 2 and 3 time steps."""
    blocks = [
        dict(execution=execution, execution_block=block, **TIGHT)
        for execution in ("parallel", "exact-forward")
        for block in (1, 2, 3)
    ]
    return [dict(execution="sequential"), {}, *blocks]
