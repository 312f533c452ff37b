"""What a learning rule is: one small protocol, and a registry of names.

A rule turns a batch into gradients. It never updates a weight; `fit` does that with the same
optimiser for every rule, so rules differ in nothing but the gradient they leave in `.grad`.
A rule of your own is a subclass with a `name` and a `step`, decorated with `@register`. One name may stand
for a rule of each family of models: "hbll" trains a recurrent network over time, a layered one over depth.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model

M = TypeVar("M", bound=Model)
PASS_PROGRESS = "hs.step(..., progress=...), or rule.step(model, batch, progress=...) in a loop without it"


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
        family: of the models it trains, "recurrent" or "layered".

    Raises:
        InputError: where a subclass is defined whose `step` takes no `progress`.
    """

    name: ClassVar[str]
    family: ClassVar[str] = "recurrent"

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a `step` that cannot be called as `fit` calls it, where it is written and not hours later."""
        super().__init_subclass__(**options)
        try:
            inspect.signature(cls.step).bind_partial(progress=1.0)
        except TypeError:
            raise InputError(
                "rule",
                f"{cls.__name__} with step{inspect.signature(cls.step)}",
                "step(self, model, batch, progress), where progress is the share of the run that is done, 0 to 1",
            ) from None

    @property
    def progress(self) -> float:
        """No longer there: `progress` is an argument of `step`.

        A loop that still sets it would train by another gradient than it asks for, so setting it is refused.
        """
        raise AttributeError(f"{type(self).__name__}.progress is gone: {PASS_PROGRESS}")

    @progress.setter
    def progress(self, value: float) -> None:
        raise InputError("progress", f"{value!r}, set on a rule", PASS_PROGRESS)

    def expect(self, longest: int | None) -> None:
        """Called once by `fit`, before `setup`, with the steps of the longest sequence, where that is known."""

    def setup(self, model: M, generator: torch.Generator) -> None:
        """Called once by `fit` before the first step; make per-model state here."""

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the rule's own (message encoders); trained beside the model's, never deployed."""
        return []

    def step(self, model: M, batch: Batch, progress: float) -> StepResult:
        """Add this batch's gradients to `.grad` of the model's (and the rule's) parameters.

        Args:
            model: what is trained; its weights stay as they are.
            batch: see `hbll_seq.data.batch.Batch`.
            progress: share of the run that is done: 0 at the first step of n, (n - 1) / n at the last. A rule whose
                gradient changes over a run reads it; the others ignore it. It is passed by name. The built-in rules
                take 1, the end of a run, where it is left out.

        Returns:
            The loss and what the history shall hold.
        """
        raise TypeError(f"{type(self).__name__} does not define step(model, batch, progress)")

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


def make(rule: "str | Rule[Any]", /, *, family: str = "recurrent", **options: Any) -> Rule[Any]:
    """Build a rule from its name and options, or pass an instance through.

    Raises:
        InputError: a name unknown for the family, a rule of another family, an option the rule does not have, or
            options beside an instance.
    """
    if isinstance(rule, Rule):
        if rule.family != family:
            raise InputError("rule", f"{rule.name!r} for {rule.family} models", f"a rule for {family} models")
        if options:
            raise InputError("rule", f"an instance and also options {sorted(options)}", "one of the two")
        return rule
    if (family, rule) not in _RULES:
        raise InputError("rule", repr(rule), f"for a {family} model one of {available(family)} or a Rule instance")
    try:
        return _RULES[family, rule](**options)
    except TypeError as error:
        raise InputError("rule options", sorted(options), f"options of rule {rule!r} ({error})") from error
