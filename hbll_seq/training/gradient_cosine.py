"""How close a rule's gradient is to the exact one, measured without a trace in the run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.models.base import Model


def gradient_cosine(
    model: Model, batch: Batch, rule: rules.Rule[Any], reseed: Callable[[], None], progress: float
) -> float:
    """Cosine of the rule's gradient on `batch` to the exact one, of BPTT over time or of backpropagation over depth.

    Args:
        model: what is trained; its weights and `.grad` stay as they are.
        batch: see `hbll_seq.data.batch.Batch`.
        rule: after `setup`; its state stays as it is.
        reseed: called before either gradient, so that both see the same dropout.
        progress: share of the run that is done, for the rule's gradient.
    """
    held = rule.state_dict()
    saved = [p.grad for p in rule.parameters()]
    reseed()
    ours = _gradient(model, batch, rule, progress)
    rule.load_state_dict(held)
    for p, g in zip(rule.parameters(), saved, strict=True):
        p.grad = g
    reseed()
    # by PyTorch's own layers: what is measured shall not measure itself
    reference: rules.Rule[Any] = rules.BPTT(kernels="torch") if model.family == "recurrent" else rules.Backprop()
    exact = _gradient(model, batch, reference, progress)
    return float(torch.nn.functional.cosine_similarity(ours, exact, 0))


def _gradient(model: Model, batch: Batch, rule: rules.Rule[Any], progress: float) -> Tensor:
    """What a step of the rule leaves in `.grad`, as one vector, with `.grad` as it was before."""
    saved = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    try:
        rule.step(model, batch, progress=progress)
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    finally:
        for p, g in zip(model.parameters(), saved, strict=True):
            p.grad = g
