"""Optimisers and learning-rate schedules by name; the same for every rule."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}


def make_optimizer(
    optimizer: Any, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Make an optimiser from its name, or from a class or factory called as `optimizer(parameters, lr=...)`.

    An optimiser over some of the parameters is returned as it is.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        _check_single(optimizer)
        return _checked(optimizer, list(parameters), weight_decay)
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise InputError("optimizer", repr(optimizer), f"one of {sorted(OPTIMIZERS)} or a factory(parameters, lr=)")
        return OPTIMIZERS[optimizer](parameters, lr=lr, weight_decay=weight_decay)
    if not callable(optimizer):
        raise InputError("optimizer", type(optimizer).__name__, "a name or a factory(parameters, lr=)")
    extra = {"weight_decay": weight_decay} if weight_decay else {}
    try:
        made = optimizer(parameters, lr=lr, **extra)
    except TypeError as error:
        raise InputError("optimizer", f"a factory that fails ({error})", "factory(parameters, lr=)") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError("optimizer", f"a factory that returns {type(made).__name__}", "a torch.optim.Optimizer")
    _check_single(made)
    return made


def _check_single(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser that computes the loss several times an update."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("optimizer", "LBFGS, whose step needs a closure", "an optimiser with one gradient an update")


def _checked(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], weight_decay: float
) -> torch.optim.Optimizer:
    known = {id(p) for p in parameters}
    if not all(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise InputError("optimizer", "an optimiser over other parameters", "one over the model's: model.parameters()")
    if weight_decay:
        raise InputError("weight_decay", f"{weight_decay} beside an optimiser", "0: the optimiser has its own")
    return optimizer


def make_schedule(schedule: Any, steps: int, warmup: int) -> Callable[[int], float]:
    """Return the factor on the learning rate at update i (from 0): linear warm-up, then the schedule."""
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        raise InputError("schedule", repr(schedule), f"one of {sorted(SCHEDULES)} or a function of the step")
    if not isinstance(schedule, str):
        if not callable(schedule):
            raise InputError("schedule", type(schedule).__name__, "a name or a function of the step")
        try:
            float(schedule(0))
        except (TypeError, ValueError) as error:
            raise InputError("schedule", f"a function that gives no number ({error})", "step -> factor") from error
    warmup = integer("warmup", warmup, least=0, most=max(steps, 1) - 1)

    def factor(i: int) -> float:
        if not isinstance(schedule, str):
            return float(schedule(i))
        if i < warmup:
            return (i + 1) / warmup
        return SCHEDULES[schedule]((i - warmup) / (steps - warmup))

    return factor
