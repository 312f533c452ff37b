"""`fit`: train a model by a learning rule. Nothing about any rule is in here.

A thin loop over a public `step`: draw a batch, let the rule leave gradients, clip, update. What the user had
is never lost: an update is made only from finite gradients, an interrupted run returns what it
reached, and a run that diverges leaves the weights of its last finite loss.
"""

import math
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.data.inputs import as_source, text_window
from hbll_seq.data.sources import MIX
from hbll_seq.errors import DivergenceError, InputError
from hbll_seq.models.base import Model
from hbll_seq.training.arguments import (
    check_checkpoint,
    check_model,
    check_seed,
    check_step,
    integer,
    make_rule,
    number,
    pick_device,
    positive,
    rule_arguments,
    split_validation,
    training_steps,
)
from hbll_seq.training.callbacks import Callbacks
from hbll_seq.training.evaluation import evaluate_source
from hbll_seq.training.gradient_cosine import gradient_cosine
from hbll_seq.training.history import History, versions
from hbll_seq.training.optim import make_optimizer, make_schedule
from hbll_seq.training.run_state import Trained
from hbll_seq.training.seeding import seed_draws

CHECKED = {"deployed_gap": "gap", "amplification": "amplification"}  # measured now and then: their steps' name

__all__ = ["StepInfo", "fit", "step"]


class StepInfo(NamedTuple):
    """One update: the rule's result, the gradient norm before clipping, and whether an update was made."""

    result: rules.StepResult
    grad_norm: float
    updated: bool


SKIPPED = StepInfo(rules.StepResult(0.0, {}), 0.0, False)  # a batch in which no target counts


def step(
    model: Model,
    batch: Batch,
    rule: rules.Rule[Any],
    optimizer: torch.optim.Optimizer,
    clip: float | None = 1.0,
) -> StepInfo:
    """One training step, for a loop of your own. Non-finite losses or gradients make no update.

    Args:
        model: what is trained.
        batch: see `hbll_seq.data.batch.Batch`.
        rule: from `hbll_seq.rules.make`, after `rule.setup`.
        optimizer: over `model.parameters()` and `rule.parameters()`.
        clip: largest norm of the model's gradient, or None.

    Returns:
        See `StepInfo`. A batch in which no target counts has loss 0 and makes no update; the rule does not see it.

    Raises:
        InputError: before anything is computed.
    """
    batch = check_step(model, batch, rule, optimizer, clip)
    if batch.targeted():
        return _step(model, batch, rule, optimizer, clip)
    optimizer.zero_grad()
    return SKIPPED


def _step(
    model: Model, batch: Batch, rule: rules.Rule[Any], optimizer: torch.optim.Optimizer, clip: float | None
) -> StepInfo:
    """`step` of a batch that `fit` made."""
    optimizer.zero_grad()
    result = rule.step(model, batch)
    grads = _gradients(model.parameters())
    norm = _norm(grads)
    # what the rule trains beside the model is not clipped with it, so that rules differ in nothing else
    if not (math.isfinite(result.loss) and math.isfinite(norm) and math.isfinite(_norm(_gradients(rule.parameters())))):
        return StepInfo(result, norm, False)
    if clip is not None and norm > clip:
        torch._foreach_mul_(grads, clip / norm)
    optimizer.step()
    return StepInfo(result, norm, True)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _norm(tensors: list[Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors])))


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """By their largest entries, one pass: what is not finite stays so in a maximum."""
    largest = torch._foreach_norm([t.detach() for t in tensors], math.inf)
    return math.isfinite(float(torch.stack([one.float() for one in largest]).sum()))


def fit(
    model: Model, x: Any, y: Any = None, *,
    rule: str | rules.Rule[Any] = "hbll",
    steps: int | None = None, epochs: float | None = None, batch_size: int = 16, window: int | None = None,
    lr: float = 4e-3, optimizer: Any = "adam", weight_decay: float = 0.0, schedule: Any = "linear", warmup: int = 0,
    clip: float | None = 1.0,
    validation: Any = None, validate_every: int | str = "auto",
    mask: Any = None, ignore_index: int = -100,
    seed: int = 0, device: str = "auto", callbacks: Any = (), progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 200, resume: bool = False,
    record_every: int = 50, measure_cosine: int | None = None,
    rule_options: dict[str, Any] | None = None, **options: Any,
) -> History:  # fmt: skip
    """Train `model` on sequences.

    Args:
        model: a `SequenceModel`, `CharLM`, `MLP`, `ViT`, `GPT`, `Layered`; trained in place.
        x: sequences, in any form of docs/howto/data.md (`hbll_seq.data.inputs`).
        y: their targets (`hbll_seq.data.targets`); None for next-step prediction.
        rule: "hbll", "bptt", "tbptt", "dsf", or a `Rule`; its options (`block_size`, `sweeps`, `feedback`, `pull`,
            ...) are further keywords.
        steps: length of training in steps; one of the two.
        epochs: length of training in passes over the data, 1 where neither is given.
        batch_size: sequences a step (a DataLoader brings its own).
        window: steps of the windows cut from one long text; None for 256, or the model's context.
        lr: peak learning rate.
        validation: `x`, `(x, y)` or `((x, lengths), y)` held out, or a fraction: the last sequences, or the tail
            of one long text.

    Other arguments:
        optimizer: "adam", "adamw", "sgd", or a factory `f(parameters, lr=...)`.
        schedule: "linear" (to zero), "cosine", "constant", or a factor as a function of the step.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; None for no clipping.
        validate_every: steps between validations; "auto" makes about ten.
        mask: which per-step targets count.
        ignore_index: the label of per-step targets that do not.
        seed: of data order and of whatever the model draws; the global random state is untouched.
        device: "auto" (the model's own; a GPU where there is one and the model is on the CPU), or a name.
        callbacks: see `hbll_seq.training.callbacks`.
        progress: show a bar.
        checkpoint: file for the state of the run.
        checkpoint_every: steps between writes.
        resume: go on from the checkpoint, if it is there; a resumed run equals one that was never stopped.
        record_every: steps between records of every block's loss.
        measure_cosine: steps between comparisons with the exact BPTT gradient (costs one BPTT step each).
        rule_options: options of rules in a dict, of which the rule takes those it has; so that one word changes the
            rule. An option given as a keyword must be one of the rule's.

    Returns:
        A `History`. A batch in which no target counts makes no update and has no loss; its number is in `skipped_step`.

    Raises:
        InputError: before any weight changes.
        DivergenceError: loss or gradient left the finite numbers; the model holds the weights of its last finite
            loss, and the error's `history` what was recorded.
    """
    batch_size, seed = integer("batch_size", batch_size), check_seed(seed)
    checkpoint_every, record_every = (
        integer("checkpoint_every", checkpoint_every),
        integer("record_every", record_every),
    )
    measure_cosine = None if measure_cosine is None else integer("measure_cosine", measure_cosine, extra=", or None")
    lr, clip = positive("lr", lr), None if clip is None else positive("clip", clip, ", or None")
    weight_decay = number("weight_decay", weight_decay)
    check_checkpoint(checkpoint, resume)
    check_model(model)
    options = rule_arguments(rule, options, rule_options, model.family)
    learner = make_rule(rule, options, model.family)
    whole = as_source(x, y, model, mask=mask, window=window, ignore_index=ignore_index)
    source, held_out = split_validation(whole, validation, model, window, ignore_index)
    total = training_steps(steps, epochs, source, batch_size)
    source.batch(0, batch_size, seed)  # a DataLoader's first batch is looked at before anything changes
    factor = make_schedule(schedule, total, warmup)
    every = max(1, total // 10) if validate_every == "auto" else integer("validate_every", validate_every,
                                                                         extra=', or "auto"')  # fmt: skip
    hooks = Callbacks(callbacks)
    if hooks.needs_validation and held_out is None:
        raise InputError("validation", "None, and a callback that waits for validations", "held-out data or a fraction")
    where = pick_device(device, model)
    model.to(where)
    learner.expect(source.longest())
    learner.setup(model, torch.Generator().manual_seed(seed))
    opt = make_optimizer(optimizer, [*model.parameters(), *learner.parameters()], lr, weight_decay)
    config = dict(
        rule=learner.name, steps=total, batch_size=batch_size, lr=lr, seed=seed, clip=clip,
        window=text_window(window, model), optimizer=_name(optimizer), weight_decay=weight_decay,
        schedule=_name(schedule), warmup=warmup,
        task=model.task, objective=model.objective, device=str(where),
        options={k: v if isinstance(v, int | float | str | type(None)) else str(v) for k, v in options.items()},
    )  # fmt: skip
    run = History(model, config, versions())
    trained = Trained(run, model, opt, learner, hooks)
    first = 0
    hook_states: list[Any] = []
    if checkpoint is not None and resume and os.path.exists(checkpoint):
        first, hook_states = trained.restore(checkpoint)
    weights = list(model.parameters())
    good = [p.detach().clone() for p in weights]  # of the last finite loss
    before = [p.detach().clone() for p in weights]  # of the step being made
    stepping = False
    began = time.perf_counter() - (run.history["seconds"][-1] if run.history.get("seconds") else 0.0)
    model_mode = model.training
    model.train()
    bar = tqdm(total=total, initial=min(first, total), disable=not progress, unit="step", dynamic_ncols=True,
               mininterval=0.5, file=sys.stdout, leave=True)  # fmt: skip  # stdout: a notebook shows stderr as an error
    try:
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            stop = hooks.call("on_fit_begin", run)
            hooks.load_state_dict(hook_states)
            if stop:
                run.stopped_reason = "callback"
            for i in range(first, first if stop else total):
                reseed = partial(seed_draws, seed * MIX + i, where)  # for dropout and the like in a user's module
                batch = source.batch(i, batch_size, seed)
                targeted = batch.targeted()  # asked on the CPU, where it waits for nothing
                batch = batch.to(where)
                rate = lr * factor(i)
                for group in opt.param_groups:
                    group["lr"] = rate
                learner.progress = i / total
                if measure_cosine and targeted and i % measure_cosine == 0:
                    run.add(gradient_cosine=gradient_cosine(model, batch, learner, reseed), cosine_step=i + 1)
                torch._foreach_copy_(before, [p.detach() for p in weights])
                reseed()
                stepping = True
                info = _step(model, batch, learner, opt, clip) if targeted else SKIPPED
                stepping = False
                if targeted and not info.updated:
                    raise _divergence(info, i + 1)
                good, before = before, good
                if not _all_finite(weights):
                    raise _divergence(info, i + 1)
                blocks = i % record_every == 0 or i + 1 == total
                if targeted:
                    _record(run, info, i + 1, rate, time.perf_counter() - began, blocks)
                else:
                    run.add(skipped_step=i + 1)
                bar.update()
                if progress:
                    bar.set_postfix(loss=f"{info.result.loss:.4f}", refresh=False)
                stop = hooks.call("on_step_end", run, i + 1)
                if held_out is not None and ((i + 1) % every == 0 or i + 1 == total):
                    figures = evaluate_source(model, held_out, max(batch_size, 64))
                    run.add(val_step=i + 1, **{f"val_{k}": v for k, v in figures.items()})
                    stop = hooks.call("on_validation", run, i + 1) or stop
                if checkpoint is not None and ((i + 1) % checkpoint_every == 0 or i + 1 == total):
                    trained.store(checkpoint, i + 1)
                if stop:
                    run.stopped_reason = "early_stopping" if run.stopped_reason == "early_stopping" else "callback"
                    break
    except KeyboardInterrupt:
        if stepping:
            _put_back(weights, before)  # the update may be half made
        run.stopped_reason = "interrupted"
    except DivergenceError as error:  # also one that a rule raises
        _put_back(weights, good)
        run.stopped_reason, error.history = "diverged", run
        raise
    finally:
        bar.close()
        model.train(model_mode)
        opt.zero_grad()
    hooks.call("on_fit_end", run)
    return run


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(getattr(value, "__qualname__", type(value).__name__))


def _record(run: History, info: StepInfo, number: int, lr: float, seconds: float, blocks: bool) -> None:
    metrics = {name: v if isinstance(v, str) else float(v) for name, v in info.result.metrics.items()}
    checked = {name: metrics.pop(name) for name in CHECKED if name in metrics}
    run.add(step=number, loss=info.result.loss, lr=lr, grad_norm=info.grad_norm, seconds=seconds, **metrics)
    for name, value in checked.items():
        run.add(**{name: value, f"{CHECKED[name]}_step": number})
    if blocks and info.result.block_loss is not None:
        run.add(block_loss=info.result.block_loss.tolist(), block_step=number)


def _put_back(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_([*weights], values)


def _divergence(info: StepInfo, number: int) -> DivergenceError:
    what = f"loss {info.result.loss}" if not math.isfinite(info.result.loss) else f"gradient norm {info.grad_norm}"
    what = "the update made weights that are not finite" if info.updated else what
    where = ""
    if info.result.block_loss is not None:
        bad = (~torch.isfinite(info.result.block_loss)).nonzero()
        where = f", first in block {int(bad[0])}" if len(bad) else ""
    return DivergenceError(
        f"step {number}{where}: {what}. The model holds the weights of its last finite loss. "
        "Try a smaller lr, a smaller clip, or more warmup; the figures so far are in error.history."
    )
