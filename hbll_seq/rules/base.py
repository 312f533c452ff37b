"""Learning rules: one small protocol, and a registry of names.

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
from hbll_seq.data.scalars import plain_options
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model

M = TypeVar("M", bound=Model)
PASS_PROGRESS = "hs.step(..., progress=...), or rule.step(model, batch, progress=...) in a loop without it"


class StepResult(NamedTuple):
    """The report of one update by a rule.

    Attributes:
        loss: mean loss of the batch in nats (cross-entropy) or squared units (regression),
            as seen by the rule in training.
        metrics: scalars, or words, for the history, e.g. `sweeps`, `inconsistency`, `schedule`.
        block_loss: `(n,)` mean loss of each temporal block, or None if blocks have no loss.
        state: `(B, S)` state of every layer after the batch, detached, if the batch has a start state; else None.
    """

    loss: float
    metrics: dict[str, float] | dict[str, float | str]
    block_loss: Tensor | None = None
    state: list[Tensor] | None = None


class Rule(Generic[M]):
    """The base class of learning rules.

    Attributes:
        name: its name in `fit(..., rule=...)`.
        replaced: removed options, each with its replacement.
        family: the family of models it trains, "recurrent" or "layered".
        spans_time: whether it trains where the time steps of a batch are spread over ranks (`hbll_seq.distributed`).
        carries_state: whether `step` starts from `batch.state` and reports the state after the batch
            (`StepResult.state`). `fit(..., stateful=True)` needs such a rule.
        rate: learning rate of the rule's own parameters, in units of the model's; `fit` reads it after `setup`.

    Raises:
        InputError: the definition of a subclass whose `step` takes no `progress`, or whose `plan` is no method of one
            argument.
    """

    name: ClassVar[str]
    replaced: ClassVar[dict[str, str]] = {}
    family: ClassVar[str] = "recurrent"
    carries_state: ClassVar[bool] = False
    spans_time: ClassVar[bool] = False
    rate: float = 1.0

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a `step` or `plan` that `fit` cannot call, at its definition instead of hours later."""
        super().__init_subclass__(**options)
        try:
            inspect.signature(cls.step).bind_partial(progress=1.0)
        except TypeError:
            raise InputError(
                "rule",
                f"{cls.__name__} with step{inspect.signature(cls.step)}",
                "step(self, model, batch, progress), where progress is the share of the run that is done, 0 to 1",
            ) from None
        try:
            inspect.signature(cls.plan).bind(None, 1.0)
        except TypeError:
            came = f"{cls.__name__} with plan = {cls.plan!r:.60}"
            raise InputError("rule", came, "plan(self, passes), which fit calls, or another name") from None

    @property
    def progress(self) -> float:
        """A removed attribute: `progress` is an argument of `step`.

        Setting it is refused, because a loop that still sets it would train by another gradient than it asks for.
        """
        raise AttributeError(f"{type(self).__name__}.progress is gone: {PASS_PROGRESS}")

    @progress.setter
    def progress(self, value: float) -> None:
        raise InputError("progress", f"{value!r}, set on a rule", PASS_PROGRESS)

    def expect(self, longest: int | None) -> None:
        """Prepare for the longest sequence, `longest` time steps; `fit` calls this once before `setup` if it knows
        them.
        """

    def plan(self, passes: float | None) -> None:
        """Prepare for a run of `passes` passes over its data, None if unknown; `fit` calls this before `setup`.

        It is for the next `setup` alone: a loop of your own that does not call it says nothing about its passes.
        """

    def unit(self, steps: int, batch: int) -> int:
        """Return the time steps at multiples of which a batch of `batch` sequences of `steps` may be cut into spans."""
        return 1

    def setup(self, model: M, generator: torch.Generator) -> None:
        """Make state for a model; `fit` calls this once before the first update."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the rule's own parameters (message encoders), trained beside the model's and never deployed."""
        return []

    def step(self, model: M, batch: Batch, progress: float) -> StepResult:
        """Add this batch's gradients to `.grad` of the model's (and the rule's) parameters.

        Args:
            model: the model to train; its weights stay as they are.
            batch: see `hbll_seq.data.batch.Batch`.
            progress: completed share of the run: 0 at the first update of n, (n - 1) / n at the last. A rule whose
                gradient changes over a run reads it; the others ignore it. It is passed by name. The built-in rules
                default to 1, the end of a run.

        Returns:
            The loss and figures for the history.
        """
        raise TypeError(f"{type(self).__name__} does not define step(model, batch, progress)")

    def mark(self, model: M) -> None:
        """Note on the model what it is trained for; called after every update of its weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and plain numbers that make a resumed run equal an uninterrupted one."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""


_RULES: dict[tuple[str, str], Callable[..., Rule[Any]]] = {}
R = TypeVar("R", bound=type[Rule[Any]])


def register(rule: R) -> R:
    """Register the decorated class, so that `fit(..., rule=rule.name)` finds it."""
    if not isinstance(getattr(rule, "name", None), str):
        raise InputError("rule", rule, "a Rule subclass with a string `name`")
    _RULES[rule.family, rule.name] = rule
    return rule


def available(family: str = "recurrent") -> list[str]:
    """Return the names that `fit(..., rule=...)` accepts for a family of models."""
    return sorted(name for kind, name in _RULES if kind == family)


def lookup(name: str, family: str = "recurrent") -> Callable[..., Rule[Any]]:
    """Return the class registered under `name`."""
    return _RULES[family, name]


def refuse_replaced(rule: Callable[..., Rule[Any]], options: dict[str, Any]) -> None:
    """Refuse removed options, and name their replacements.

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
        InputError: a name unknown for the family, a rule of another family, an unknown or removed option, or options
            beside an instance.
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
        return _RULES[family, rule](**plain_options(options))
    except TypeError as error:
        raise InputError("rule options", sorted(options), f"options of rule {rule!r} ({error})") from error
