"""`hbll` for layered networks: the full path by feedback messages, or every path by local losses.

`full_path.py` trains the full path, `any_path.py` every path of the tree. This module checks the options of both.
"""

from typing import Any, ClassVar

import torch

from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import LARGEST, as_integer, integer, number, plain_number, plain_options
from hbll_seq.engine.effort import Effort
from hbll_seq.errors import InputError
from hbll_seq.models.layered import Layered
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.depth.any_path import AnyPath
from hbll_seq.rules.depth.full_path import FullPath

MOVED = ("right", "step", "noise", "variance")  # to rule "hbll-v1"
EXECUTIONS = ("auto", "sequential", "exact-forward", "parallel")
FULL: dict[str, Any] = {
    "discount": "auto", "execution": "auto", "feedback": "auto", "tolerance": 3e-4, "feedback_tolerance": 3e-4,
    "most": 8,
}  # fmt: skip
ANY: dict[str, Any] = {"tree": 1.0}


@register
class LayeredHBLL(Rule[Layered]):
    """Train a layered network by hierarchical block-local learning over depth (docs/method.md#layered-networks).

    Every module learns from its own graph; no gradient joins two modules.

    Args:
        paths: "full" trains the full path best. A node starts on the shared head's loss on its own output, and the
            message from the nodes behind it takes over; the run ends on backpropagation's gradient. "any"
            trains every path of the tree as a network of its own, by local losses alone, for `predict_anytime` and
            `draft_and_verify`.
        sweeps: with `paths="full"` and `execution="parallel"`: sweeps over all modules for the states, or "auto" for as
            many as `tolerance` asks. With `paths="any"`: how the full path is visited, "pipelined" (the default),
            "auto" or a number, see `any_path.AnyPath`.
        batched: False runs modules one by one where they are alike too (the reference for tests; same results).
        discount: only "full": factor on the message that enters a node, 0 to 1; its own head's loss has the rest. 1
            gives backpropagation's gradient, 0 local losses. "auto" measures the gain of every module (`credit.py`).
            Where the first update's messages arrive, it rises to 1 within 400 updates, or with `progress` where that is
            faster, and is 1 once half of a batch's examples were in an earlier batch; in a run by `fit` of more than
            three passes over the data it is 1 from the second update on. Elsewhere it is `progress`, and less for
            modules on which messages vanish.
        execution: only "full": "sequential" finds states and messages in order; "exact-forward" the states in order and
            the messages of all modules at once; "parallel" both at once. "auto" is "sequential": on two cores nothing
            is faster, and no GPU was measured. The gradient is the same within the tolerances.
        feedback: only "full": corrections of the messages, or "auto" for as many as `feedback_tolerance` asks.
        tolerance: only "full": relative inconsistency of the states at which sweeps stop.
        feedback_tolerance: only "full": relative squared residual of the messages at which corrections stop.
        most: only "full": most sweeps, and most corrections. What misses its tolerance then is found in order.
        tree: only "any": weight of the tree's losses beside the full path's. Less favours the full path.
        moved: `right`, `step`, `noise` and `variance` are options of rule "hbll-v1" now, and refused here.

    Raises:
        InputError: an option out of range, of the other `paths`, one that moved, or one unknown.
    """

    name = "hbll"
    family: ClassVar[str] = "layered"

    def __init__(
        self, paths: str = "full", *, sweeps: int | str | None = None, batched: bool = True,
        discount: float | str | None = None, execution: str | None = None, feedback: int | str | None = None,
        tolerance: float | None = None, feedback_tolerance: float | None = None, most: int | None = None,
        tree: float | None = None, **moved: Any,
    ) -> None:  # fmt: skip
        given = plain_options({
            "discount": discount, "execution": execution, "feedback": feedback, "tolerance": tolerance,
            "feedback_tolerance": feedback_tolerance, "most": most, "tree": tree,
        })  # fmt: skip
        for name, value in moved.items():
            if name in MOVED:
                raise InputError(name, repr(value), 'no such option of rule "hbll": it is one of rule="hbll-v1" now')
            every = sorted({"paths", "sweeps", "batched", *given})
            raise InputError(name, "an option that rule 'hbll' does not have", f"one of {every}")
        if paths not in ("full", "any"):
            raise InputError("paths", repr(paths), '"full" or "any"')
        own, other = (FULL, "any") if paths == "full" else (ANY, "full")
        for name, value in given.items():
            if value is not None and name not in own:
                raise InputError(name, f'{value!r} beside paths="{paths}"', f'paths="{other}", or no such option')
        chosen: dict[str, Any] = {
            name: default if given[name] is None else given[name] for name, default in own.items()
        }
        self.paths, self.batched, sweeps = paths, batched, plain_number(sweeps)
        self.sweeps = sweeps if sweeps is not None else "auto" if paths == "full" else "pipelined"
        self.trainer = _full(self.sweeps, batched, **chosen) if paths == "full" else self._any(chosen["tree"])
        for name, value in chosen.items():
            setattr(self, name, value)  # a run's checkpoint compares them

    def _any(self, tree: float) -> AnyPath:
        return AnyPath(sweeps=self.sweeps, tree=tree, batched=self.batched)

    def plan(self, passes: float | None) -> None:
        """See `Rule.plan`. A full path's credit is whole at once where examples come back often (`credit.py`)."""
        if isinstance(self.trainer, FullPath):
            self.trainer.passes = 1.0 if passes is None else passes

    def setup(self, model: Layered, generator: torch.Generator) -> None:
        """Forget everything learned of another model."""
        self.trainer.reset()
        self.plan(None)

    def mark(self, model: Layered) -> None:
        """See `Rule.mark`."""
        model.trained_for = self.paths

    def step(self, model: Layered, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        return self.trainer.step(model, batch, progress)

    def state_dict(self) -> dict[str, Any]:
        """See `Rule.state_dict`."""
        return {"paths": self.paths, "trainer": self.trainer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Rule.load_state_dict`. The state of the other `paths` is of no use, and forgotten."""
        of, held = (state["paths"], state["trainer"]) if "paths" in state else ("any", state)  # older runs had one kind
        if of == self.paths:
            self.trainer.load_state_dict(held)
        else:
            self.trainer.reset()


def _full(
    sweeps: int | str, batched: bool, discount: float | str, execution: str, feedback: int | str, tolerance: float,
    feedback_tolerance: float, most: int,
) -> FullPath:  # fmt: skip
    """Check the options of the full path, and make it."""
    if isinstance(discount, str):
        if discount != "auto":
            raise InputError("discount", repr(discount), 'a number in 0..1, or "auto"')
    else:
        discount = number("discount", discount, most=1.0)
    if execution not in EXECUTIONS:
        raise InputError("execution", repr(execution), f"one of {EXECUTIONS}")
    for name, value in (("sweeps", sweeps), ("feedback", feedback)):
        count = as_integer(value)
        if value != "auto" and (count is None or not 0 <= count <= LARGEST):
            what = 'an integer >= 0, or "auto"' + ('; "pipelined" has paths="any"' if value == "pipelined" else "")
            raise InputError(name, repr(value), what)
    most = integer("most", most)
    tolerance, feedback_tolerance = number("tolerance", tolerance), number("feedback_tolerance", feedback_tolerance)
    needs = {"sweeps": ("parallel",), "feedback": ("parallel", "exact-forward")}
    for name, value in (("sweeps", sweeps), ("feedback", feedback)):
        if value != "auto" and execution not in needs[name]:
            raise InputError(name, f'{value} beside execution="{execution}"', f"execution={' or '.join(needs[name])}")
    return FullPath(
        discount, "sequential" if execution == "auto" else execution, _effort(sweeps, most, tolerance),
        _effort(feedback, most, feedback_tolerance), batched,
    )  # fmt: skip


def _effort(given: int | str, most: int, tolerance: float) -> Effort:
    return Effort(0, most if isinstance(given, str) else given, tolerance, fixed=not isinstance(given, str))
