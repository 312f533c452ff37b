"""The cosine of a rule's gradient to the exact one, measured without an effect on the run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.models.base import Model, kept_buffers


def gradient_cosine(
    model: Model, batch: Batch, rule: rules.Rule[Any], reseed: Callable[[], None], progress: float
) -> float:
    """Return the cosine of the rule's gradient to the exact one: BPTT over time, or backpropagation over depth.

    Args:
        model: its weights and `.grad` stay as they are.
        batch: see `hbll_seq.data.batch.Batch`.
        rule: after `setup`; its state stays as it is.
        reseed: called before either gradient, so that both see the same dropout.
        progress: completed share of the run, for the rule's gradient.
    """
    held = rule.state_dict()
    saved = [p.grad for p in rule.parameters()]
    reseed()
    ours = _gradient(model, batch, rule, progress)
    rule.load_state_dict(held)
    for p, g in zip(rule.parameters(), saved, strict=True):
        p.grad = g
    reseed()
    # by PyTorch's own layers: our kernels must not be their own reference
    reference: rules.Rule[Any] = rules.BPTT(kernels="torch") if model.family == "recurrent" else rules.Backprop()
    exact = _gradient(model, batch, reference, progress)
    return float(torch.nn.functional.cosine_similarity(ours, exact, 0))


def _gradient(model: Model, batch: Batch, rule: rules.Rule[Any], progress: float) -> Tensor:
    """Return the rule's gradient as one vector; `.grad` stays as it was."""
    saved = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    try:
        with kept_buffers(model):
            rule.step(model, batch, progress=progress)
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    finally:
        for p, g in zip(model.parameters(), saved, strict=True):
            p.grad = g
