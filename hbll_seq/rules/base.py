"""What a learning rule is: one small protocol, and a registry of names.

A rule turns a batch into gradients. It never updates a weight; `fit` does that with the same
optimiser for every rule, so rules differ in nothing but the gradient they leave in `.grad`.
A rule of your own is a subclass with a `name` and a `step`, decorated with `@register`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hbll_seq.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel


class StepResult(NamedTuple):
    """What one step of a rule reports.

    Attributes:
        loss: mean loss of the batch in nats (cross-entropy) or squared units (regression),
            as seen by the rule in training.
        metrics: scalars for the history, e.g. `sweeps`, `corrections`, `inconsistency`.
        block_loss: `(n,)` mean loss of each temporal block, or None where blocks have no loss.
    """

    loss: float
    metrics: dict[str, float]
    block_loss: Tensor | None = None


class Rule:
    """Base class of learning rules."""

    name: ClassVar[str]

    def setup(self, model: SequenceModel, generator: torch.Generator) -> None:
        """Called once by `fit` before the first step; make per-model state here."""

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the rule's own (message encoders); trained beside the model's, never deployed."""
        return []

    def step(self, model: SequenceModel, batch: Batch) -> StepResult:
        """Add this batch's gradients to `.grad` of the model's (and the rule's) parameters."""
        raise TypeError(f"{type(self).__name__} does not define step(model, batch)")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers that make a resumed run equal an uninterrupted one."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


_RULES: dict[str, Callable[..., Rule]] = {}


def register(rule: type[Rule]) -> type[Rule]:
    """Class decorator: make `rule` reachable as `fit(..., rule=rule.name)`."""
    if not isinstance(getattr(rule, "name", None), str):
        raise InputError("rule", rule, "a Rule subclass with a string `name`")
    _RULES[rule.name] = rule
    return rule


def available() -> list[str]:
    """Names that `fit(..., rule=...)` accepts."""
    return sorted(_RULES)


def lookup(name: str) -> Callable[..., Rule]:
    """The class registered under `name`."""
    return _RULES[name]


def make(rule: "str | Rule", **options: Any) -> Rule:
    """Build a rule from its name and options, or pass an instance through.

    Raises:
        InputError: unknown name, an option the rule does not have, or options beside an instance.
    """
    if isinstance(rule, Rule):
        if options:
            raise InputError("rule", f"an instance and also options {sorted(options)}", "one of the two")
        return rule
    if rule not in _RULES:
        raise InputError("rule", repr(rule), f"one of {available()} or a Rule instance")
    try:
        return _RULES[rule](**options)
    except TypeError as error:
        raise InputError("rule options", sorted(options), f"options of rule {rule!r} ({error})") from error
