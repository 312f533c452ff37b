"""The figures of one update, added to the history."""

import math
from typing import Any

from hbll_seq.training.history import History
from hbll_seq.training.step import StepInfo

CHECKED = {"deployed_gap": "gap", "amplification": "amplification"}  # measured now and then: name of their steps


def record(run: History, info: StepInfo, number: int, lr: float, seconds: float, blocks: bool) -> None:
    """Add the figures of one update.

    Args:
        run: the history.
        info: result of the update.
        number: the update's number, from 1.
        lr: its learning rate.
        seconds: since the start of training.
        blocks: also add the loss of every block, if the rule reports it.
    """
    metrics = {name: v if isinstance(v, str) else float(v) for name, v in info.result.metrics.items()}
    checked = {name: metrics.pop(name) for name in CHECKED if name in metrics}
    _pad(run, metrics, "step")
    run.add(step=number, loss=info.result.loss, lr=lr, grad_norm=info.grad_norm, seconds=seconds, **metrics)
    for name, value in checked.items():
        run.add(**{name: value, f"{CHECKED[name]}_step": number})
    if blocks and info.result.block_loss is not None:
        run.add(block_loss=info.result.block_loss.tolist(), block_step=number)


def record_validation(run: History, figures: dict[str, float], number: int) -> None:
    """Add the figures of the validation after update `number`."""
    named = {f"val_{name}": value for name, value in figures.items()}
    _pad(run, named, "val_step")
    run.add(val_step=number, **named)


def _pad(run: History, metrics: dict[str, Any], steps: str) -> None:
    """Keep one value a step in every list: a run that was resumed with another rule or metric has other figures."""
    before, history = len(run.history.get(steps, [])), run.history
    for name, value in metrics.items():
        if len(history.get(name, [])) < before:
            missing = "" if isinstance(value, str) else math.nan
            history.setdefault(name, []).extend([missing] * (before - len(history.get(name, []))))
