"""Chrono-style initialisation: gate biases spread over time scales.

A gate that keeps a fraction a of its unit per time step forgets with time constant 1/(1-a). The biases are
drawn so that the time constants are log-uniform between 1 and `timescale`. So every unit has a memory of its
own length from the first update on (after Tallec & Ollivier 2018, whose uniform draw leaves few short
memories). All learning rules share it.
"""

import math

import torch
from torch import Tensor, nn

from hbll_seq.cells.mingru import MinGRU


def chrono_(module: nn.Module, timescale: float, generator: torch.Generator | None = None) -> None:
    """Set the gate biases of an `nn.GRU`, `nn.LSTM` or `MinGRU`, or of an `nn.ModuleList` of them, in place.

    Modules without gates stay as they are.

    Args:
        module: the recurrent module.
        timescale: the longest time constant, in time steps (> 1).
        generator: source of the random time constants.
    """
    if isinstance(module, nn.ModuleList):
        for one in module:
            chrono_(one, timescale, generator)
        return
    if not isinstance(module, nn.GRU | nn.LSTM | MinGRU) or getattr(module, "bias", True) is False:
        return
    d = module.hidden_size
    names = [
        f"l{layer}{end}" for layer in range(module.num_layers) for end in ("", "_reverse")[: 1 + module.bidirectional]
    ]
    with torch.no_grad():
        for name in names:
            # keep gate sigmoid(b) = exp(-1/tau), so b = -log(exp(1/tau) - 1), about log(tau)
            tau = torch.rand(d, generator=generator).mul(math.log(timescale)).exp()
            keep: Tensor = -(torch.expm1(1 / tau)).log()
            bias: Tensor = getattr(module, f"bias_ih_{name}")
            if isinstance(module, MinGRU):
                bias[:d] = -keep
                continue
            other: Tensor = getattr(module, f"bias_hh_{name}")
            bias[d : 2 * d] = keep  # GRU: update gate z; LSTM: forget gate f
            other[d : 2 * d] = 0
            if isinstance(module, nn.LSTM):
                bias[:d], other[:d] = -keep, 0
