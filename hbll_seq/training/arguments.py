"""Argument checks shared by the public functions of training, made before any weight changes."""

import difflib
import inspect
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import as_real, plain_options
from hbll_seq.data.scalars import check_seed as check_seed
from hbll_seq.data.scalars import integer as integer
from hbll_seq.data.scalars import integer_or_auto as integer_or_auto
from hbll_seq.data.scalars import number as number
from hbll_seq.data.scalars import positive as positive
from hbll_seq.data.scalars import shown as shown
from hbll_seq.data.sources import Loader, Source
from hbll_seq.data.streaming import check_state
from hbll_seq.data.streams import Streams, as_streams
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.models.label_names import unpacked
from hbll_seq.models.recurrent import SequenceModel

# arguments of `fit` and `gradient` besides a rule's options; a test compares them with the signatures
FIT = (
    "rule", "steps", "epochs", "batch_size", "window", "lr", "optimizer", "weight_decay", "schedule", "warmup", "clip",
    "validation", "validate_every", "mask", "ignore_index", "seed", "device", "callbacks", "progress", "checkpoint",
    "checkpoint_every", "resume", "record_every", "measure_cosine", "rule_options", "loss", "metrics", "sample_weight",
    "accumulate", "convert", "stateful", "parallel",
)  # fmt: skip
GRADIENT = (
    "rule", "mask", "window", "ignore_index", "seed", "progress", "rule_options", "loss", "sample_weight", "convert",
)  # fmt: skip


def share(name: str, value: Any) -> float:
    """Return `value` as a float from 0 to 1."""
    return number(name, value, most=1.0)


def check_step(model: Model, batch: Any, rule: Any, optimizer: Any, clip: Any) -> Batch:
    """Check the arguments of `step`; return the batch in the model's dtypes."""
    if not isinstance(rule, rules.Rule) or rule.family != model.family:
        came = f"{rule.name!r} for {rule.family} models" if isinstance(rule, rules.Rule) else type(rule).__name__
        raise InputError("rule", came, f"a Rule for {model.family} models, from hbll_seq.rules.make, after setup")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError("optimizer", type(optimizer).__name__, "a torch.optim.Optimizer over the model's parameters")
    if clip is not None:
        positive("clip", clip, ", or None")
    checked = model.check(batch)
    if batch.state is None:
        return checked
    if not isinstance(model, SequenceModel) or not rule.carries_state:
        raise InputError("batch.state", f"a start state, with rule {rule.name!r}", "None, or a rule with carries_state")
    shapes = [(len(batch.x), cell.state_size) for cell in model.cells]
    state = check_state(batch.state, shapes, model.readout.weight.detach())
    return checked._replace(state=[one.detach() for one in state])


def check_trainable(model: nn.Module) -> None:
    """Refuse a model that no rule can train, and a context in which no gradient exists.

    Products of a float32 model may be bfloat16 (`precision="bf16"`). Weights may not: small updates would be rounded
    away.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("model", "a call inside torch.inference_mode()", "a call outside it: training needs gradients")
    parameters = list(model.parameters())
    if any(map(is_lazy, parameters)):
        raise InputError("model", "a lazy module without weights", "one that was called once, which makes its weights")
    other = {str(p.dtype) for p in parameters} - {"torch.float32", "torch.float64"}
    if other:
        raise InputError(
            "model",
            f"weights of {', '.join(sorted(other))}",
            "float32 or float64 weights; for products in bfloat16 use precision='bf16'",
        )
    if any(p.is_inference() for p in parameters):
        raise InputError("model", "weights made inside torch.inference_mode()", "a model made outside it")
    if not any(p.requires_grad for p in parameters):
        raise InputError("model", "no parameter that requires grad", "at least one that is not frozen")


def training_steps(steps: Any, epochs: Any, source: Source, batch_size: int, accumulate: int) -> int:
    """Return the number of updates: `steps`, or whole epochs (1 if neither is given)."""
    if steps is not None:
        if epochs is not None:
            raise InputError("epochs", "both steps and epochs", "one of the two")
        return integer("steps", steps)
    many = 1.0 if epochs is None else positive("epochs", epochs, ", or None")
    return max(1, round(many * source.steps_per_epoch(batch_size) / accumulate))


def run_passes(total: int, source: Source, batch_size: int, accumulate: int) -> float | None:
    """Return how often a run of `total` updates passes over its data, or None for a loader without a length."""
    try:
        return total * accumulate / source.steps_per_epoch(batch_size)
    except InputError:
        return None


def rule_arguments(rule: Any, options: dict[str, Any], shared: Any, family: str) -> dict[str, Any]:
    """Merge the options for a rule: the keywords, and those entries of `rule_options=` that the rule has.

    Args:
        rule: its name, or a `Rule`.
        options: options given as keywords; the rule must have every one of them.
        shared: `rule_options=`: options of several rules, so that one word changes the rule. Options of other rules
            of the family are left out.
        family: the model's family.

    Raises:
        InputError: an option that no rule has (suggests the nearest name), or that is given twice.
    """
    if shared is None:
        shared = {}
    if not isinstance(shared, Mapping) or not all(isinstance(name, str) for name in shared):
        raise InputError("rule_options", type(shared).__name__, "a dict from names of options to values")
    if shared and isinstance(rule, rules.Rule):
        raise InputError("rule_options", "options beside a Rule instance", "a rule's name, or the instance alone")
    every = set[str]().union(*(_options(name, family) for name in rules.available(family)))
    for name in shared:
        if name not in every:
            near = _nearest(name, every)
            raise InputError("rule_options", f"{name!r}, which no rule has", f"options of a rule{near}")
        if name in options:
            raise InputError(name, "a keyword and also in rule_options", "one of the two")
    own = _options(rule, family)
    return plain_options({**{name: value for name, value in shared.items() if name in own}, **options})


def make_rule(rule: Any, options: dict[str, Any], family: str, words: Sequence[str] = FIT) -> rules.Rule[Any]:
    """Make the rule; an unknown option or name raises an error that suggests the nearest one."""
    if isinstance(rule, str) and rule in rules.available(family):
        rules.base.refuse_replaced(rules.base.lookup(rule, family), options)
        known = inspect.signature(rules.base.lookup(rule, family)).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for name in options:
            if name not in known and not anything:
                others = [one for one in rules.available(family) if name in _options(one, family)]
                where = f"; {', '.join(others)} have it: rule_options={{...}} keeps it for them" if others else ""
                raise InputError(
                    name,
                    "an option that neither fit nor the rule has",
                    f"for rule {rule!r} one of {sorted(known)}{where or _nearest(name, {*words, *known})}",
                )
    elif not isinstance(rule, str | rules.Rule):
        raise InputError("rule", type(rule).__name__, f"one of {rules.available(family)} or a Rule instance")
    elif isinstance(rule, str):
        near = _nearest(rule, rules.available(family))
        raise InputError("rule", repr(rule), f"for a {family} model one of {rules.available(family)}{near}")
    return rules.make(rule, family=family, **options)


def _options(rule: Any, family: str) -> set[str]:
    """Return the names of a rule's own options; none for an instance or an unknown name."""
    if not isinstance(rule, str) or rule not in rules.available(family):
        return set()
    parameters = inspect.signature(rules.base.lookup(rule, family)).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _nearest(name: str, words: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, sorted(words), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def split_validation(
    source: Source, validation: Any, model: Model, window: int | None, ignore_index: int
) -> tuple[Source, Source | None]:
    """Return the training source and the held-out source, `Streams` if the training source is."""
    if validation is None:
        return source, None
    share = as_real(validation)
    if share is not None:
        validation = share
        if not 0 < validation < 1:
            raise InputError("validation", validation, "a fraction between 0 and 1")
        return source.tail(validation)
    x, y = validation, None
    if isinstance(validation, tuple) and not hasattr(validation, "batch_sizes"):
        if len(validation) != 2:
            raise InputError(
                "validation", f"a tuple of {len(validation)}", "x, (x, y), ((x, lengths), y) or a fraction"
            )
        x, y = validation
        if getattr(model, "task", None) == "next" and y is not None:
            x, y = (x, y), None  # (x, lengths)
    x, y = unpacked(x, y)
    try:
        if isinstance(source, Streams):  # one state for all windows: their size does not matter
            return source, as_streams(x, model.targets(y), model, ignore_index=ignore_index)
        held_out = model.make_source(x, y, mask=None, window=window, ignore_index=ignore_index)
        if isinstance(held_out, Loader) and next(held_out.in_order(1), None) is None:  # checks its first batch
            raise InputError("x", "a DataLoader without batches", "at least one batch")
        return source, held_out
    except InputError as error:
        raise InputError(f"validation: {error.argument}", error.got, error.expected) from error


def pick_device(device: Any, model: nn.Module) -> torch.device:
    """Return the device to train on; "auto" or None: the model's, or a GPU if the model is on the CPU."""
    here = next(model.parameters()).device
    if device is None or (isinstance(device, str) and device == "auto"):
        return torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except Exception as error:  # each missing backend raises another type
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError("device", shown(device), f"a device torch can use here ({why})") from error
    if where.type == "meta":
        raise InputError("device", shown(device), "a device that holds values")
    return where


def check_checkpoint(path: str | os.PathLike[str] | None, resume: bool | str) -> None:
    """Refuse a path where no file can be written: hours of training should not end there."""
    if not (isinstance(resume, bool) or (isinstance(resume, str) and resume == "changed")):
        raise InputError("resume", shown(resume), 'True, False or "changed"')
    if path is None:
        if resume:
            raise InputError("resume", f"{resume!r} without a checkpoint", "checkpoint='a file'")
        return
    if not isinstance(path, str | os.PathLike):
        raise InputError("checkpoint", type(path).__name__, "a path")
    if "\0" in str(path):
        raise InputError("checkpoint", repr(path), "the name of a file")
    file = pathlib.Path(path)
    if file.is_dir() or not file.parent.is_dir():
        what = "which is a folder" if file.is_dir() else "whose folder does not exist"
        raise InputError("checkpoint", f"{os.fspath(path)!r}, {what}", "a file in a folder that exists")
