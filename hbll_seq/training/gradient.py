"""`gradient`: the gradient a rule finds, without a change to the model."""

from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.data.scalars import flag
from hbll_seq.errors import InputError
from hbll_seq.models.any_module import as_model
from hbll_seq.models.base import Model, kept_buffers
from hbll_seq.training.arguments import (
    GRADIENT,
    check_seed,
    check_trainable,
    make_rule,
    rule_arguments,
    share,
)

EVERYTHING = 1 << 40  # sequences


def gradient(
    model: nn.Module, x: Any, y: Any = None, *, rule: str | rules.Rule[Any] = "bptt", mask: Any = None,
    window: int | None = None, ignore_index: int = -100, seed: int = 0, progress: float = 1.0,
    loss: Any = None, sample_weight: Any = None, convert: bool = True,
    rule_options: dict[str, Any] | None = None, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Return a rule's gradient for all of `x` as one batch (of a DataLoader: its first batch).

    Args:
        model: as for `fit`; its weights, `.grad`, buffers and mode stay as they are.
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
            0 it is truncated BPTT's. Blocks without a target have whole credit at any `progress`. "smt" is in its
            phase of rolls at 1 and in that of one-step pairs at 0, with a teacher that is new unless the rule is given.
        loss, sample_weight, convert: as for `fit`.
        rule_options: as for `fit`.

    Returns:
        Gradients by parameter name, on the model's device; zeros where the rule gives none.

    Raises:
        InputError: see `fit`.
    """
    seed, progress = check_seed(seed), share("progress", progress)
    trained = as_model(model, loss, ignore_index=ignore_index, general=sample_weight is not None)
    check_trainable(trained)
    with trained.in_run(flag("convert", convert)):
        given = isinstance(rule, rules.Rule)
        options = rule_arguments(rule, options, rule_options, trained.family)
        learner = make_rule(rule, options, trained.family, GRADIENT)
        source = trained.make_source(
            x, y, mask=mask, window=window, ignore_index=ignore_index, weight=sample_weight
        )  # fmt: skip
        batch = next(iter(source.in_order(EVERYTHING)), None)
        if batch is None or not batch.targeted():  # the first of a DataLoader
            raise InputError(
                "x", "no first batch" if batch is None else "a first batch without a target that counts", "one"
            )
        batch = batch.to(next(trained.parameters()).device)
        trained.rehearse(batch, [source])
        learner.expect(source.longest())
        if not given:
            learner.setup(trained, torch.Generator().manual_seed(seed))
        return _measured(trained, batch, learner, seed, progress)


def _measured(model: Model, batch: Batch, learner: rules.Rule[Any], seed: int, progress: float) -> dict[str, Tensor]:
    """Return the rule's gradient for a batch by name; everything stays as it is."""
    held = learner.state_dict()
    saved = [p.grad for p in (*model.parameters(), *learner.parameters())]
    for p in model.parameters():
        p.grad = None
    try:
        with borrowed_generators(batch.x.device, seed), kept_buffers(model):
            learner.step(model, batch, progress=progress)
        found = model.inner.named_parameters()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in found}
    finally:
        for p, g in zip((*model.parameters(), *learner.parameters()), saved, strict=True):
            p.grad = g
        learner.load_state_dict(held)
