"""Checks of arguments that the public functions of training share, made before any weight changes."""

import inspect
import math
import numbers
import os
import pathlib
from typing import Any

import torch
from torch import nn

from hbll_seq import rules
from hbll_seq.data.inputs import as_source
from hbll_seq.data.sources import Source
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model

LARGEST_SEED = 2**42  # a generator's seed is made of this and the step, in 63 bits


def integer(name: str, value: Any, least: int = 1, extra: str = "") -> int:
    """`value` as an int (NumPy's integers are welcome), at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < least:
        raise InputError(name, repr(value), f"an integer >= {least}{extra}")
    return int(value)


def positive(name: str, value: Any, extra: str = "") -> float:
    """`value` as a finite float > 0."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise InputError(name, repr(value), f"a number > 0{extra}")
    return float(value)


def share(name: str, value: Any) -> float:
    """`value` as a float from 0 to 1."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise InputError(name, repr(value), "a number from 0 to 1")
    return float(value)


def check_seed(seed: Any) -> int:
    """The seed as an int of a size that leaves room for the step."""
    if not isinstance(seed, numbers.Integral) or abs(int(seed)) > LARGEST_SEED:
        raise InputError("seed", repr(seed), f"an integer within +-{LARGEST_SEED}")
    return int(seed)


def check_trainable(model: nn.Module) -> None:
    """Refuse a model that no rule can train, and a context in which no gradient exists.

    Products of a float32 model may be bfloat16, by `torch.autocast` or by `precision="bf16"`; weights may not: updates
    smaller than their last bit would be lost.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("model", "a call inside torch.inference_mode()", "a call outside it: training needs gradients")
    parameters = list(model.parameters())
    other = {str(p.dtype) for p in parameters} - {"torch.float32", "torch.float64"}
    if other:
        raise InputError(
            "model",
            f"weights of {', '.join(sorted(other))}",
            "float32 or float64 weights; for products in bfloat16 use torch.autocast or precision='bf16'",
        )
    if any(p.is_inference() for p in parameters):
        raise InputError("model", "weights made inside torch.inference_mode()", "a model made outside it")
    if not any(p.requires_grad for p in parameters):
        raise InputError("model", "no parameter that requires grad", "at least one that is not frozen")


def training_steps(steps: Any, epochs: Any, source: Source, batch_size: int) -> int:
    """How many steps to train: as many as said, or whole epochs; one epoch where neither is said."""
    if steps is not None:
        if epochs is not None:
            raise InputError("epochs", "both steps and epochs", "one of the two")
        return integer("steps", steps)
    many = 1.0 if epochs is None else positive("epochs", epochs, ", or None")
    return max(1, round(many * source.steps_per_epoch(batch_size)))


def make_rule(rule: Any, options: dict[str, Any], family: str) -> rules.Rule[Any]:
    """The rule, and an error that names the option it does not have."""
    if isinstance(rule, str) and rule in rules.available(family):
        rules.base.refuse_replaced(rules.base.lookup(rule, family), options)
        known = inspect.signature(rules.base.lookup(rule, family)).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for name in options:
            if name not in known and not anything:
                raise InputError(
                    name,
                    "an option that neither fit nor the rule has",
                    f"for rule {rule!r} one of {sorted(known)}",
                )
    elif not isinstance(rule, str | rules.Rule):
        raise InputError("rule", type(rule).__name__, f"one of {rules.available(family)} or a Rule instance")
    return rules.make(rule, family=family, **options)


def split_validation(
    source: Source, validation: Any, model: Model, window: int | None, ignore_index: int
) -> tuple[Source, Source | None]:
    """What to train on, and what is held out."""
    if validation is None:
        return source, None
    if isinstance(validation, float):
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
        if model.task == "next" and y is not None:
            x, y = (x, y), None  # (x, lengths)
    try:
        return source, as_source(x, y, model, window=window, ignore_index=ignore_index)
    except InputError as error:
        raise InputError(f"validation: {error.argument}", error.got, error.expected) from error


def pick_device(device: Any, model: nn.Module) -> torch.device:
    """ "auto" or None: where the model is, but on a GPU rather than on the CPU."""
    here = next(model.parameters()).device
    if device is None or device == "auto":
        return torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            "device", repr(device), f"a device torch can use here ({str(error).splitlines()[0]})"
        ) from error
    return where


def check_checkpoint(path: str | os.PathLike[str] | None, resume: bool | str) -> None:
    """A place where a file can be: hours of training should not find out that it is not."""
    if not isinstance(resume, bool) and resume != "changed":
        raise InputError("resume", repr(resume), 'True, False or "changed"')
    if path is None:
        if resume:
            raise InputError("resume", f"{resume!r} without a checkpoint", "checkpoint='a file'")
        return
    if not isinstance(path, str | os.PathLike):
        raise InputError("checkpoint", type(path).__name__, "a path")
    file = pathlib.Path(path)
    if file.is_dir() or not file.parent.is_dir():
        what = "which is a folder" if file.is_dir() else "whose folder does not exist"
        raise InputError("checkpoint", f"{os.fspath(path)!r}, {what}", "a file in a folder that exists")
