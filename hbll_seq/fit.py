"""`fit`: train a model by a learning rule. Nothing about any rule is in here.

A thin loop over a public `step`: draw a batch, let the rule leave gradients, clip, update. What the user had
is never lost: an update is made only from finite gradients, an interrupted run returns what it
reached, and a run that diverges leaves the weights of its last finite loss.
"""

import inspect
import math
import os
import platform
import sys
import time
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hbll_seq import checkpoint as ckpt
from hbll_seq import rules
from hbll_seq.batch import Batch
from hbll_seq.callbacks import Callbacks
from hbll_seq.errors import DivergenceError, InputError
from hbll_seq.evaluate import bptt_gradient, evaluate_source
from hbll_seq.history import History
from hbll_seq.inputs import MIX, Loader, LongText, Padded, as_source
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.optim import make_optimizer, make_schedule

__all__ = ["StepInfo", "fit", "step"]


class StepInfo(NamedTuple):
    """One update: the rule's result, the gradient norm before clipping, and whether an update was made."""

    result: rules.StepResult
    grad_norm: float
    updated: bool


def step(
    model: SequenceModel,
    batch: Batch,
    rule: rules.Rule,
    optimizer: torch.optim.Optimizer,
    clip: float | None = 1.0,
) -> StepInfo:
    """One training step, for a loop of your own. Non-finite losses or gradients make no update.

    Args:
        model: what is trained.
        batch: see `hbll_seq.batch.Batch`.
        rule: from `hbll_seq.rules.make`, after `rule.setup`.
        optimizer: over `model.parameters()` and `rule.parameters()`.
        clip: largest norm of the model's gradient, or None.
    """
    optimizer.zero_grad()
    result = rule.step(model, batch)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))) if grads else 0.0
    if not (math.isfinite(result.loss) and math.isfinite(norm)):
        return StepInfo(result, norm, False)
    if clip is not None and norm > clip:
        torch._foreach_mul_(grads, clip / norm)
    optimizer.step()
    return StepInfo(result, norm, True)


def fit(
    model: SequenceModel, x: Any, y: Any = None, *,
    rule: str | rules.Rule = "hbll",
    steps: int | None = None, epochs: float | None = None, batch_size: int = 16, window: int = 256,
    lr: float = 4e-3, optimizer: Any = "adam", weight_decay: float = 0.0, schedule: Any = "linear", warmup: int = 0,
    clip: float | None = 1.0,
    validation: Any = None, validate_every: int | str = "auto",
    mask: Any = None, ignore_index: int = -100,
    seed: int = 0, device: str = "auto", callbacks: Any = (), progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 200, resume: bool = False,
    record_every: int = 50, measure_cosine: int | None = None,
    **rule_options: Any,
) -> History:  # fmt: skip
    """Train `model` on sequences.

    Main arguments:
        model: a `SequenceModel` (or `CharLM`, ...); trained in place.
        x, y: see `hbll_seq.inputs` and `hbll_seq.targets` for every form they may have.
        rule: "hbll", "bptt", "tbptt", "dsf", or a `Rule`; its options (`block_size`, `sweeps`, `feedback`, `pull`,
            ...) are further keywords.
        steps, epochs: length of training; one of the two (default: 1 epoch).
        batch_size: sequences a step (a DataLoader brings its own).
        window: steps of the windows cut from one long text.
        lr: peak learning rate.
        validation: `x`, `(x, y)` or `((x, lengths), y)` held out, or a fraction: the last sequences, or the tail
            of one long text.

    Other arguments:
        optimizer: "adam", "adamw", "sgd", or a factory `f(parameters, lr=...)`.
        schedule: "linear" (to zero), "cosine", "constant", or a factor as a function of the step.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; None for no clipping.
        validate_every: steps between validations; "auto" makes about ten.
        mask, ignore_index: which per-step targets count.
        seed: of data order and of whatever the model draws; the global random state is untouched.
        device: "auto" (the model's own; a GPU where there is one and the model is on the CPU), or a name.
        callbacks: see `hbll_seq.callbacks`.
        progress: show a bar.
        checkpoint, checkpoint_every, resume: file for the state of the run, steps between writes, and
            whether to go on from it; a resumed run equals one that was never stopped.
        record_every: steps between records of every block's loss.
        measure_cosine: steps between comparisons with the exact BPTT gradient (costs one BPTT step each).

    Returns:
        A `History`.

    Raises:
        InputError: before any weight changes.
        DivergenceError: loss or gradient left the finite numbers; the model holds the weights of its last finite
            loss, and the error's `history` what was recorded.
    """
    _check_numbers(steps=steps, epochs=epochs, batch_size=batch_size, lr=lr, clip=clip, seed=seed,
                   validate_every=validate_every, checkpoint_every=checkpoint_every,
                   record_every=record_every)  # fmt: skip
    if not isinstance(model, SequenceModel):
        raise InputError("model", type(model).__name__, "a hbll_seq.models.SequenceModel")
    learner = _make_rule(rule, rule_options)
    source = as_source(x, y, model, mask=mask, window=window, ignore_index=ignore_index)
    source, held_out = _validation(source, validation, model, window, ignore_index)
    per_epoch = source.steps_per_epoch(batch_size)
    total = steps if steps is not None else max(1, round((epochs if epochs is not None else 1) * per_epoch))
    factor = make_schedule(schedule, total, warmup)
    every = max(1, total // 10) if validate_every == "auto" else int(validate_every)
    hooks = Callbacks(callbacks)
    where = _device(device, model)
    model.to(where)
    learner.setup(model, torch.Generator().manual_seed(seed))
    opt = make_optimizer(optimizer, [*model.parameters(), *learner.parameters()], lr, weight_decay)
    config = dict(
        rule=learner.name, steps=total, batch_size=batch_size, lr=lr, seed=seed, window=window, clip=clip,
        optimizer=optimizer if isinstance(optimizer, str) else str(optimizer), weight_decay=weight_decay,
        schedule=schedule if isinstance(schedule, str) else str(schedule), warmup=warmup,
        options={k: v if isinstance(v, int | float | str | type(None)) else str(v) for k, v in rule_options.items()},
    )  # fmt: skip
    run = History(model, config, _versions())
    first = 0
    if resume:
        if checkpoint is None:
            raise InputError("resume", "True without a checkpoint", "checkpoint='a file'")
        if os.path.exists(checkpoint):
            first = _restore(checkpoint, run, model, opt, learner)
    weights = list(model.parameters())
    good = [p.detach().clone() for p in weights]  # of the last finite loss
    before = [p.detach().clone() for p in weights]  # of the step being made
    stepping = False
    began = time.perf_counter() - (run.history["seconds"][-1] if run.history.get("seconds") else 0.0)
    training, model_mode = True, model.training
    model.train()
    bar = tqdm(total=total, initial=first, disable=not progress, unit="step", dynamic_ncols=True, mininterval=0.5,
               file=sys.stdout, leave=True)  # fmt: skip  # stdout: a notebook shows stderr as an error
    try:
        with torch.random.fork_rng():
            if hooks.call("on_fit_begin", run):
                training = False
                run.stopped_reason = "callback"
            for i in range(first, total if training else first):
                torch.manual_seed(seed * MIX + i)  # for dropout and the like in a user's module; forked above
                batch = source.batch(i, batch_size, seed).to(where)
                rate = lr * factor(i)
                for group in opt.param_groups:
                    group["lr"] = rate
                if measure_cosine and i % measure_cosine == 0:
                    run.add(gradient_cosine=_cosine(model, batch, learner), cosine_step=i + 1)
                torch._foreach_copy_(before, [p.detach() for p in weights])
                stepping = True
                info = step(model, batch, learner, opt, clip)
                stepping = False
                if not info.updated:
                    _put_back(weights, good)
                    run.stopped_reason = "diverged"
                    raise _divergence(run, info, i + 1)
                good, before = before, good
                _record(
                    run,
                    info,
                    i + 1,
                    rate,
                    time.perf_counter() - began,
                    i % record_every == 0 or i + 1 == total,
                )
                bar.update()
                bar.set_postfix(loss=f"{info.result.loss:.4f}", refresh=False)
                stop = hooks.call("on_step_end", run, i + 1)
                if held_out is not None and ((i + 1) % every == 0 or i + 1 == total):
                    figures = evaluate_source(model, held_out, max(batch_size, 64))
                    run.add(val_step=i + 1, **{f"val_{k}": v for k, v in figures.items()})
                    stop = hooks.call("on_validation", run, i + 1) or stop
                if checkpoint is not None and ((i + 1) % checkpoint_every == 0 or i + 1 == total):
                    _store(checkpoint, run, model, opt, learner, i + 1)
                if stop:
                    run.stopped_reason = "early_stopping" if run.stopped_reason == "early_stopping" else "callback"
                    break
    except KeyboardInterrupt:
        if stepping:
            _put_back(weights, before)  # the update may be half made
        run.stopped_reason = "interrupted"
    finally:
        bar.close()
        model.train(model_mode)
        opt.zero_grad()
    hooks.call("on_fit_end", run)
    return run


def _check_numbers(**given: Any) -> None:
    for name in ("batch_size", "checkpoint_every", "record_every"):
        if not isinstance(given[name], int) or isinstance(given[name], bool) or given[name] < 1:
            raise InputError(name, repr(given[name]), "an integer >= 1")
    if given["steps"] is not None and given["epochs"] is not None:
        raise InputError("epochs", "both steps and epochs", "one of the two")
    if given["steps"] is not None and (not isinstance(given["steps"], int) or given["steps"] < 1):
        raise InputError("steps", repr(given["steps"]), "an integer >= 1")
    for name in ("epochs", "clip"):
        if given[name] is not None and not given[name] > 0:
            raise InputError(name, repr(given[name]), "a number > 0, or None")
    if not (isinstance(given["lr"], int | float) and 0 < given["lr"] < math.inf):
        raise InputError("lr", repr(given["lr"]), "a number > 0")
    if not isinstance(given["seed"], int):
        raise InputError("seed", repr(given["seed"]), "an integer")
    if given["validate_every"] != "auto" and not (
        isinstance(given["validate_every"], int) and given["validate_every"] > 0
    ):
        raise InputError("validate_every", repr(given["validate_every"]), 'an integer >= 1, or "auto"')


def _make_rule(rule: str | rules.Rule, options: dict[str, Any]) -> rules.Rule:
    if isinstance(rule, str) and rule in rules.available():
        known = inspect.signature(rules.base.lookup(rule)).parameters
        for name in options:
            if name not in known:
                raise InputError(
                    name,
                    "an option that neither fit nor the rule has",
                    f"for rule {rule!r} one of {sorted(known)}",
                )
    return rules.make(rule, **options)


def _validation(
    source: Padded | LongText | Loader, validation: Any, model: SequenceModel, window: int, ignore_index: int
) -> tuple[Padded | LongText | Loader, Padded | LongText | Loader | None]:
    if validation is None:
        return source, None
    if isinstance(validation, float):
        if not 0 < validation < 1:
            raise InputError("validation", validation, "a fraction between 0 and 1")
        if isinstance(source, Loader):
            raise InputError("validation", "a fraction of a DataLoader", "held-out data")
        return source.tail(validation)
    x, y = validation, None
    if isinstance(validation, tuple) and not hasattr(validation, "batch_sizes"):
        if len(validation) != 2:
            raise InputError(
                "validation", f"a tuple of {len(validation)}", "x, (x, y), ((x, lengths), y) or a fraction"
            )
        x, y = validation
        if model.task == "next" and y is not None:
            x, y = (x, y), None  # (x, lengths)
    try:
        return source, as_source(x, y, model, window=window, ignore_index=ignore_index)
    except InputError as error:
        raise InputError(f"validation: {error.argument}", error.got, error.expected) from error


def _device(device: str, model: nn.Module) -> torch.device:
    here = next(model.parameters()).device
    if device == "auto":
        return torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            "device", repr(device), f"a device torch can use here ({str(error).splitlines()[0]})"
        ) from error
    return where


def _versions() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("hbll_seq")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hbll_seq": own,
        "threads": torch.get_num_threads(),
    }


def _cosine(model: SequenceModel, batch: Batch, learner: rules.Rule) -> float:
    """Cosine of the rule's gradient to the exact one; the rule itself is left as it was."""
    held = learner.state_dict()
    ours = bptt_gradient(model, batch, learner.step)
    learner.load_state_dict(held)
    for p in learner.parameters():
        p.grad = None
    exact = bptt_gradient(model, batch, rules.make("bptt").step)
    a, b = (torch.cat([g.flatten() for g in gs]) for gs in (ours, exact))
    return float(torch.nn.functional.cosine_similarity(a, b, 0))


def _record(run: History, info: StepInfo, number: int, lr: float, seconds: float, blocks: bool) -> None:
    metrics = dict(info.result.metrics)
    gap = metrics.pop("deployed_gap", None)
    run.add(step=number, loss=info.result.loss, lr=lr, grad_norm=info.grad_norm, seconds=seconds, **metrics)
    if gap is not None:
        run.add(deployed_gap=gap, gap_step=number)
    if blocks and info.result.block_loss is not None:
        run.add(block_loss=info.result.block_loss.tolist(), block_step=number)


def _put_back(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_([*weights], values)


def _divergence(run: History, info: StepInfo, number: int) -> DivergenceError:
    what = f"loss {info.result.loss}" if not math.isfinite(info.result.loss) else f"gradient norm {info.grad_norm}"
    where = ""
    if info.result.block_loss is not None:
        bad = (~torch.isfinite(info.result.block_loss)).nonzero()
        where = f", first in block {int(bad[0])}" if len(bad) else ""
    error = DivergenceError(
        f"step {number}{where}: {what}. The model holds the weights of its last finite loss. "
        "Try a smaller lr, a smaller clip, or more warmup; the figures so far are in error.history."
    )
    error.history = run
    return error


def _store(
    path: Any, run: History, model: nn.Module, opt: torch.optim.Optimizer, learner: rules.Rule, number: int
) -> None:
    state = ckpt.trainable_state(model, opt, learner.state_dict())
    tensors, tree = ckpt.split_state(state, "state")
    try:
        ckpt.write(path, tensors, {"tree": tree, "history": run.to_json(), "step": number, "rule": learner.name})
    except OSError as error:
        warnings.warn(
            f"checkpoint {os.fspath(path)!r} not written ({error}); training goes on, the last one stays",
            stacklevel=3,
        )


def _restore(path: Any, run: History, model: nn.Module, opt: torch.optim.Optimizer, learner: rules.Rule) -> int:
    tensors, facts = ckpt.read(path)
    if facts.get("rule") != learner.name:
        raise InputError("checkpoint", f"a run of rule {facts.get('rule')!r}", f"one of rule {learner.name!r}")
    state = ckpt.join_state(tensors, facts["tree"])
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise InputError("checkpoint", "weights of another model", f"those of this one ({error})") from error
    opt.load_state_dict(state["optimizer"])
    learner.load_state_dict(state["rule"])
    run.history = History.from_json(facts["history"]).history
    return int(facts["step"])
