"""What a learning rule is: one small protocol, and a registry of names.

A rule turns a batch into gradients. It never updates a weight; `fit` does that with the same
optimiser for every rule, so rules differ in nothing but the gradient they leave in `.grad`.
A rule of your own is a subclass with a `name` and a `step`, decorated with `@register`. One name may stand
for a rule of each family of models: "hbll" trains a recurrent network over time, a layered one over depth.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model

M = TypeVar("M", bound=Model)


class StepResult(NamedTuple):
    """What one step of a rule reports.

    Attributes:
        loss: mean loss of the batch in nats (cross-entropy) or squared units (regression),
            as seen by the rule in training.
        metrics: scalars, or words, for the history, e.g. `sweeps`, `inconsistency`, `schedule`.
        block_loss: `(n,)` mean loss of each temporal block, or None where blocks have no loss.
    """

    loss: float
    metrics: dict[str, float] | dict[str, float | str]
    block_loss: Tensor | None = None


class Rule(Generic[M]):
    """Base class of learning rules.

    Attributes:
        name: what `fit(..., rule=...)` calls it.
        replaced: options that it had once, and what stands in their place.
        family: of the models it trains, "recurrent" or "layered".
        progress: share of the run that is done, 0 at the first step, near 1 at the last. `fit` sets it before every
            step; a loop of your own may, or leave it at 1/2.
    """

    name: ClassVar[str]
    replaced: ClassVar[dict[str, str]] = {}
    family: ClassVar[str] = "recurrent"
    progress: float = 0.5

    def expect(self, longest: int | None) -> None:
        """Called once by `fit`, before `setup`, with the steps of the longest sequence, where that is known."""

    def setup(self, model: M, generator: torch.Generator) -> None:
        """Called once by `fit` before the first step; make per-model state here."""

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the rule's own (message encoders); trained beside the model's, never deployed."""
        return []

    def step(self, model: M, batch: Batch) -> StepResult:
        """Add this batch's gradients to `.grad` of the model's (and the rule's) parameters."""
        raise TypeError(f"{type(self).__name__} does not define step(model, batch)")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers that make a resumed run equal an uninterrupted one."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


_RULES: dict[tuple[str, str], Callable[..., Rule[Any]]] = {}
R = TypeVar("R", bound=type[Rule[Any]])


def register(rule: R) -> R:
    """Class decorator: make `rule` reachable as `fit(..., rule=rule.name)`."""
    if not isinstance(getattr(rule, "name", None), str):
        raise InputError("rule", rule, "a Rule subclass with a string `name`")
    _RULES[rule.family, rule.name] = rule
    return rule


def available(family: str = "recurrent") -> list[str]:
    """Names that `fit(..., rule=...)` accepts for a family of models."""
    return sorted(name for kind, name in _RULES if kind == family)


def lookup(name: str, family: str = "recurrent") -> Callable[..., Rule[Any]]:
    """The class registered under `name`."""
    return _RULES[family, name]


def refuse_replaced(rule: Callable[..., Rule[Any]], options: dict[str, Any]) -> None:
    """Refuse options that a rule had once, and say what replaced them.

    Raises:
        InputError: names the first such option.
    """
    replaced: dict[str, str] = getattr(rule, "replaced", {})
    for name in options:
        if name in replaced:
            raise InputError(name, f"{options[name]!r}, an option that is gone", replaced[name])


def make(rule: "str | Rule[Any]", /, *, family: str = "recurrent", **options: Any) -> Rule[Any]:
    """Build a rule from its name and options, or pass an instance through.

    Raises:
        InputError: a name unknown for the family, a rule of another family, an option the rule does not have (any
            more), or options beside an instance.
    """
    if isinstance(rule, Rule):
        if rule.family != family:
            raise InputError("rule", f"{rule.name!r} for {rule.family} models", f"a rule for {family} models")
        if options:
            raise InputError("rule", f"an instance and also options {sorted(options)}", "one of the two")
        return rule
    if (family, rule) not in _RULES:
        raise InputError("rule", repr(rule), f"for a {family} model one of {available(family)} or a Rule instance")
    refuse_replaced(_RULES[family, rule], options)
    try:
        return _RULES[family, rule](**options)
    except TypeError as error:
        raise InputError("rule options", sorted(options), f"options of rule {rule!r} ({error})") from error
