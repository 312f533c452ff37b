"""`prepare`: check the arguments of `fit` and turn them into one object, before any weight changes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hbll_seq import rules
from hbll_seq.data.inputs import text_window
from hbll_seq.data.scalars import flag, plain_number
from hbll_seq.data.sources import Source
from hbll_seq.data.streams import Streams
from hbll_seq.distributed.ranks import Ranks
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.training.arguments import (
    check_checkpoint,
    check_seed,
    check_trainable,
    integer,
    integer_or_auto,
    make_rule,
    number,
    pick_device,
    positive,
    rule_arguments,
    run_passes,
    split_validation,
    training_steps,
)
from hbll_seq.training.callbacks import Callbacks
from hbll_seq.training.carried import Carried, check_stateful
from hbll_seq.training.modes import training_mode
from hbll_seq.training.optim import make_optimizer, make_schedule
from hbll_seq.training.settings import decisive
from hbll_seq.training.shared import open_streams, opened, refuse_open, share_streams
from hbll_seq.training.spread import check_first, check_gathered, check_spread


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start.

    Attributes:
        model: the model, on `device`.
        rule: the rule, after `setup`.
        optimizer: an optimiser over the parameters of both.
        source: training data.
        held_out: validation data, or None.
        carried: the state carried along streams.
        callbacks: the user's callbacks.
        device: where the model is.
        total: updates of the whole run.
        batch_size: sequences a batch.
        accumulate: batches an update.
        seed: seed of data order and of the model's draws.
        lr: peak learning rate.
        peaks: peak rates of the optimiser's parameter groups; a user's optimiser may have several.
        factor: factor on `lr` for an update's number from 0.
        clip: largest norm of the gradient, or None.
        validate_every: updates between validations.
        record_every: updates between records of every block's loss.
        measure_cosine: updates between comparisons with the exact gradient, or None.
        checkpoint: file for the state of the run, or None.
        checkpoint_every: updates between writes.
        resume: see `fit`.
        settings: settings that decide the result, for the checkpoint; empty without one.
        progress_bar: show a bar.
        ranks: the processes of the run, or None for this one alone.
        config: arguments of `fit`, for the history.
    """

    model: Model
    rule: rules.Rule[Any]
    optimizer: torch.optim.Optimizer
    source: Source
    held_out: Source | None
    carried: Carried
    callbacks: Callbacks
    device: torch.device
    total: int
    batch_size: int
    accumulate: int
    seed: int
    lr: float
    peaks: tuple[float, ...]
    factor: Callable[[int], float]
    clip: float | None
    validate_every: int
    record_every: int
    measure_cosine: int | None
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int
    resume: bool | str
    settings: dict[str, Any]
    progress_bar: bool
    config: dict[str, Any]
    ranks: Ranks | None = None

    @property
    def chief(self) -> bool:
        """Whether this process shows progress and writes."""
        return self.ranks is None or self.ranks.chief

    def due(self, every: int, number: int) -> bool:
        """Return whether an action of every `every` updates is due after update `number` (from 1); it is due after the
        last.
        """
        return number % every == 0 or number == self.total


def prepare(
    model: Model, x: Any, y: Any, *, rule: str | rules.Rule[Any], rule_options: dict[str, Any] | None,
    options: dict[str, Any],
    steps: int | None, epochs: float | None, batch_size: int, window: int | None, lr: float, optimizer: Any,
    weight_decay: float, schedule: Any, warmup: int, clip: float | None, validation: Any, validate_every: int | str,
    mask: Any, ignore_index: int, seed: int, device: str, callbacks: Any, progress: bool,
    checkpoint: str | os.PathLike[str] | None, checkpoint_every: int, resume: bool | str, record_every: int,
    measure_cosine: int | None, sample_weight: Any, accumulate: int, convert: bool, stateful: bool,
    ranks: Ranks | None,
) -> Prepared:  # fmt: skip
    """Check the arguments of `fit` (see there), move the model to its device and set the rule up.

    Raises:
        InputError: an argument that cannot be used; no weight has changed then.
    """
    batch_size, seed = integer("batch_size", batch_size), check_seed(seed)
    accumulate = integer("accumulate", accumulate)
    checkpoint_every = integer("checkpoint_every", checkpoint_every)
    record_every = integer("record_every", record_every)
    measure_cosine = None if measure_cosine is None else integer("measure_cosine", measure_cosine, extra=", or None")
    lr, clip = positive("lr", lr), None if clip is None else positive("clip", clip, ", or None")
    weight_decay, warmup = number("weight_decay", weight_decay), plain_number(warmup)
    check_checkpoint(checkpoint, resume)
    check_trainable(model)
    options = rule_arguments(rule, options, rule_options, model.family)
    learner = make_rule(rule, options, model.family)
    if ranks is not None and ranks.by_time.size > 1:
        check_spread(model, learner)
    if flag("stateful", stateful):
        check_stateful(model, learner)
        if accumulate != 1:
            raise InputError("accumulate", f"{accumulate} beside stateful=True", "1: a window starts where one ended")
        y = model.targets(y)
        whole: Source = open_streams(
            x, y, model, batch_size=batch_size, mask=mask, window=window, ignore_index=ignore_index, ranks=ranks
        )
    else:
        refuse_open(x, y, validation)
        whole = model.make_source(x, y, mask=mask, window=window, ignore_index=ignore_index, weight=sample_weight)
    source, held_out = split_validation(whole, opened(validation), model, window, ignore_index)
    if ranks is not None and isinstance(source, Streams):
        source = share_streams(source, learner, ranks, batch_size)
    total = training_steps(steps, epochs, source, batch_size, accumulate)
    first = source.batch(0, batch_size, seed)  # checks a DataLoader's first batch before anything changes
    if ranks is not None:
        check_first(model, learner, first, ranks, source.longest(), batch_size)
    factor = make_schedule(schedule, total, warmup)
    every = _validate_every(validate_every, total)
    hooks = Callbacks(callbacks)
    if hooks.needs_validation and held_out is None:
        raise InputError("validation", "None, and a callback that waits for validations", "held-out data or a fraction")
    where = pick_device(device, model)
    model.to(where)
    with training_mode(model):
        model.rehearse(first.to(where), [source] if held_out is None else [source, held_out])
        check_gathered(model, first.to(where), ranks)
    learner.expect(source.longest())
    learner.plan(run_passes(total, source, batch_size, accumulate))
    learner.setup(model, torch.Generator().manual_seed(seed))
    opt = make_optimizer(optimizer, _trained(model, learner, lr, optimizer), lr, weight_decay)
    lr = lr if opt is not optimizer else float(opt.param_groups[0]["lr"])
    config = dict(
        rule=learner.name, steps=total, batch_size=batch_size, lr=lr, seed=seed, clip=clip,
        window=text_window(window, model), optimizer=_name(optimizer), weight_decay=weight_decay,
        schedule=_name(schedule), warmup=warmup,
        **model.task_settings(), accumulate=accumulate, convert=convert, device=str(where), stateful=bool(stateful),
        **({"streams": source.describe(batch_size)} if isinstance(source, Streams) else {}),
        **({} if ranks is None else {"parallel": {"data": ranks.by_data.size, "time": ranks.by_time.size}}),
        options={k: v if isinstance(v, int | float | str | type(None)) else str(v) for k, v in options.items()},
    )  # fmt: skip
    settings = {} if checkpoint is None else decisive(config, model, learner, opt, factor, source, held_out, every)
    return Prepared(
        model=model, rule=learner, optimizer=opt, source=source, held_out=held_out,
        carried=Carried(model, source, batch_size), callbacks=hooks, device=where,
        total=total, batch_size=batch_size, accumulate=accumulate, seed=seed, lr=lr,
        peaks=tuple(float(group["lr"]) for group in opt.param_groups), factor=factor, clip=clip, validate_every=every,
        record_every=record_every, measure_cosine=measure_cosine, checkpoint=checkpoint,
        checkpoint_every=checkpoint_every, resume=resume, settings=settings,
        progress_bar=progress and (ranks is None or ranks.chief), config=config, ranks=ranks,
    )  # fmt: skip


def _validate_every(given: int | str, total: int) -> int:
    """Return the updates between validations; "auto" makes about ten."""
    every = integer_or_auto("validate_every", given)
    return max(1, total // 10) if isinstance(every, str) else every


def _trained(model: Model, rule: rules.Rule[Any], lr: float, optimizer: Any) -> list[Any]:
    """Return the parameters to train; as two groups where the rule's own have a rate of their own.

    A ready optimiser has its own groups and rates.

    Raises:
        InputError: a ready optimiser that would train none of the rule's own parameters, or a `rate` that is no number
            >= 0.
    """
    own, rate = rule.parameters(), number("rule.rate", rule.rate)
    if own and isinstance(optimizer, torch.optim.Optimizer):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(p) in held for p in own):
            came = f"a ready optimiser beside rule {rule.name!r}, whose own parameters it would not train"
            raise InputError("optimizer", came, "a name or a factory(parameters, lr=)")
    if not own or rate == 1 or isinstance(optimizer, torch.optim.Optimizer):
        return [*model.parameters(), *own]
    return [{"params": list(model.parameters())}, {"params": own, "lr": lr * rate}]


def _name(value: Any) -> str:
    return value if isinstance(value, str) else str(getattr(value, "__qualname__", type(value).__name__))
