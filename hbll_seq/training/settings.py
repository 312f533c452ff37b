"""The settings that decide the result of a run, and their differences between a checkpoint and a call.

All are JSON-able values. Left out are settings that only record (`record_every`, `measure_cosine`, `progress`), the
times of writes, and callbacks. The device and versions change no more than rounding; their changes are noted.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hbll_seq.data.fingerprint import fingerprint
from hbll_seq.data.sources import Source
from hbll_seq.rules import Rule

FROM_CONFIG = (
    "rule", "steps", "batch_size", "seed", "lr", "weight_decay", "clip", "window", "optimizer", "schedule", "warmup",
    "task", "objective", "loss", "accumulate", "stateful", "augment",
)  # fmt: skip
NOTED = ("device", "python", "torch", "hbll_seq", "threads")
GROUPS = "settings of the optimizer"
# settings that follow from others, and are not reported beside them
_FOLLOWS = {
    "values of the schedule": ("steps", "schedule", "warmup"), "validate_every": ("steps",), GROUPS: ("optimizer",),
    "rule options": ("rule",),
}  # fmt: skip
_SAMPLES = 16

Differences = dict[str, list[Any]]  # by name: old value, new value


def decisive(
    config: dict[str, Any], model: nn.Module, rule: Rule[Any], optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float], source: Source, held_out: Source | None, validate_every: int,
) -> dict[str, Any]:  # fmt: skip
    """Return every setting that decides the result.

    Args:
        config: the history's configuration.
        model: the model to train.
        rule: its rule, after `setup`.
        optimizer: a new optimiser, before a state is put into it.
        factor: the schedule: factor on the learning rate at an update. Some of its values are compared.
        source: training data, compared by their fingerprint.
        held_out: validation data, which may decide when the run stops.
        validate_every: updates between validations.
    """
    steps = int(config["steps"])
    found = {name: config[name] for name in FROM_CONFIG if name in config} | {
        "rule options": rule_options(rule, config["options"]),
        GROUPS: [plain_settings(group) for group in optimizer.param_groups],
        "values of the schedule": [factor(steps * k // _SAMPLES) for k in range(_SAMPLES)],
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "data": fingerprint(source),
        "validation data": fingerprint(held_out),
        "validate_every": validate_every if held_out is not None else None,
    }
    return dict(json.loads(json.dumps(found)))


def rule_options(rule: Rule[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the rule, with defaults where the rule keeps them under the names of its arguments."""
    found = dict(given)
    owners = (rule, getattr(getattr(rule, "engine", None), "options", None))
    for name in inspect.signature(type(rule)).parameters:
        for owner in owners:
            if hasattr(owner, name) and isinstance(value := getattr(owner, name), str | int | float | None):
                found[name] = value
    return found


def plain_settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group, without tensors and without the parameters."""
    kept = {k: v for k, v in group.items() if isinstance(v, str | int | float | tuple | None)}
    return dict(json.loads(json.dumps(kept)))


def differences(was: dict[str, Any], now: dict[str, Any]) -> Differences:
    """Return the settings present in both that differ, without those that follow from others."""
    found = {k: [was[k], now[k]] for k in now if k in was and _text(was[k]) != _text(now[k])}
    if GROUPS in found:
        before, after = ([_without(group, found) for group in groups] for groups in found[GROUPS])
        if before == after:
            del found[GROUPS]
    return {k: v for k, v in found.items() if not any(one in found for one in _FOLLOWS.get(k, ()))}


def _text(value: Any) -> str:
    """Return text for comparison: NaN equals itself, and the order of entries does not matter."""
    return json.dumps(value, sort_keys=True)


def _without(group: Any, found: Differences) -> Any:
    """Return a group's settings without those reported as arguments of `fit`."""
    return {k: v for k, v in group.items() if k not in found} if isinstance(group, dict) else group


def in_words(found: Differences) -> str:
    """Return the differences as text: "batch_size was 3, now 4; ..."."""
    parts = []
    for name, (was, now) in found.items():
        if isinstance(was, dict) and isinstance(now, dict):
            keys = [k for k in {**was, **now} if was.get(k, "not given") != now.get(k, "not given")]
            parts += [f"{name}: {k} was {_short(was.get(k, 'not given'))}, now {_short(now.get(k, 'not given'))}"
                      for k in keys]  # fmt: skip
        elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
            changed = {i: [w, n] for i, (w, n) in enumerate(zip(was, now, strict=True)) if w != n}
            parts += [in_words({f"{name} [{i}]": pair}) for i, pair in list(changed.items())[:3]]
        else:
            parts.append(f"{name} was {_short(was)}, now {_short(now)}")
    return "; ".join(parts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
