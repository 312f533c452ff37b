"""One update from several batches: the gradient of one large batch, in the memory of a small one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.rules import Rule, StepResult


def accumulate(
    model: Model, batches: list[Batch], device: torch.device | None, rule: Rule[Any], progress: float
) -> StepResult:
    """Leave the mean gradient of several batches in `.grad`, each weighted by the targets that its loss averages.

    Of a loss whose size is not known (a callable), it is the plain mean; losses with `reduction="sum"` add up.

    Args:
        model: the model to train.
        batches: on any device; they move to `device` one after another.
        device: where the model is; None if the batches are there.
        rule: gives the gradient of a batch.
        progress: see `Rule.step`.

    Returns:
        The mean loss (or sum), and the user's metrics averaged likewise; the rule's own figures are those of the last
        batch.
    """
    parameters = [*model.parameters(), *rule.parameters()]
    total: list[Tensor | None] = [None] * len(parameters)
    seen = loss = 0.0
    metrics, result = dict[str, float](), StepResult(0.0, {})
    for batch in batches:
        for p in parameters:
            p.grad = None
        result = rule.step(model, batch if device is None else batch.to(device), progress=progress)
        weight = 1.0 if model.losses_add else model.target_count(batch)
        for i, p in enumerate(parameters):
            if p.grad is not None:
                before = total[i]
                total[i] = p.grad.mul_(weight) if before is None else before.add_(p.grad, alpha=weight)
        loss, seen = loss + weight * result.loss, seen + weight
        for name, value in model.metric_values().items():
            metrics[name] = metrics.get(name, 0.0) + weight * value
    size = 1.0 if model.losses_add else seen
    for p, grad in zip(parameters, total, strict=True):
        p.grad = None if grad is None else grad.div_(size)
    means = {name: value / seen for name, value in metrics.items()}
    return result._replace(loss=loss / size, metrics=joined(result.metrics, means))


def joined(figures: Mapping[str, float | str], metrics: dict[str, float]) -> dict[str, float | str]:
    """Return a rule's figures and the user's metrics together.

    Raises:
        InputError: one name for both.
    """
    for name in metrics:
        if name in figures:
            raise InputError("metrics", f"the name {name!r}", "a name that the rule's figures do not have")
    return {**figures, **metrics}
