"""`gradient`: the gradient a rule finds, without a change to the model."""

from typing import Any

import torch
from torch import Tensor

from hbll_seq import rules
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.data.inputs import as_source
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.training.arguments import (
    GRADIENT,
    check_model,
    check_seed,
    check_trainable,
    make_rule,
    rule_arguments,
    share,
)

EVERYTHING = 1 << 40  # sequences


def gradient(
    model: Model, x: Any, y: Any = None, *, rule: str | rules.Rule[Any] = "bptt", mask: Any = None,
    window: int | None = None, ignore_index: int = -100, seed: int = 0, progress: float = 1.0,
    rule_options: dict[str, Any] | None = None, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Return a rule's gradient for all of `x` as one batch (of a DataLoader: its first batch).

    Args:
        model: its weights, `.grad`, buffers and mode stay as they are.
        x: as for `fit`; a long text is cut into consecutive windows.
        y: as for `fit`.
        mask: as for `fit`.
        ignore_index: as for `fit`.
        rule: a name with its options as further keywords, or a `Rule` after `setup`, whose state stays as it is.
        window: time steps of the windows cut from one long text.
        seed: seed of the rule's draws and of dropout; the global random state is untouched.
        progress: completed share of a run, 0 (its first update) to 1 (its end). Only rules whose gradient changes over
            a run use it. "hbll" with `discount="auto"` multiplies the feedback message into a block with targets by
            `progress` (docs/method.md#discount). At 1 credit is whole and the gradient is BPTT's to the tolerances; at
            0 it is truncated BPTT's. Blocks without a target have whole credit at any `progress`.
        rule_options: as for `fit`.

    Returns:
        Gradients by parameter name, on the model's device; zeros where the rule gives none.

    Raises:
        InputError: see `fit`.
    """
    seed, progress = check_seed(seed), share("progress", progress)
    check_model(model)
    check_trainable(model)
    given = isinstance(rule, rules.Rule)
    options = rule_arguments(rule, options, rule_options, model.family)
    learner = make_rule(rule, options, model.family, GRADIENT)
    source = as_source(x, y, model, mask=mask, window=window, ignore_index=ignore_index)
    where = next(model.parameters()).device
    batch = next(iter(source.in_order(EVERYTHING)), None)
    if batch is None or not batch.targeted():  # the first of a DataLoader
        raise InputError(
            "x", "no first batch" if batch is None else "a first batch without a target that counts", "one"
        )
    batch = batch.to(where)
    learner.expect(source.longest())
    if not given:
        learner.setup(model, torch.Generator().manual_seed(seed))
    held = learner.state_dict()
    saved = [p.grad for p in (*model.parameters(), *learner.parameters())]
    buffers = [(b, b.clone()) for b in model.buffers()]
    for p in model.parameters():
        p.grad = None
    try:
        with borrowed_generators(where, seed):
            learner.step(model, batch, progress=progress)
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    finally:
        for p, g in zip((*model.parameters(), *learner.parameters()), saved, strict=True):
            p.grad = g
        for b, was in buffers:
            b.copy_(was)
        learner.load_state_dict(held)
