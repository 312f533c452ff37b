"""`bptt`: backpropagation through time, the reference for every other rule."""

from typing import Any

from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import choice
from hbll_seq.engine import Engine, Options
from hbll_seq.errors import InputError
from hbll_seq.models.over_time import TimeModel
from hbll_seq.models.recurrent import sequential
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import forward_backward_state, train

KERNELS = ("auto", "torch")


@register
class BPTT(Rule[TimeModel]):
    """Backpropagation through time: the sequential chain, differentiated from end to end (docs/method.md#the-problem).

    Args:
        kernels: "auto": this package's compiled rolls (the whole sequence in one call each way) if all cells of the
            model have them; "torch": PyTorch's own recurrent layers under autograd.
        memory: budget for activations, see `hbll_seq.engine.Options`; only with "auto".
    """

    name = "bptt"
    carries_state = True
    spans_time = True

    def __init__(self, kernels: str = "auto", *, memory: int | str | None = None) -> None:
        choice("kernels", kernels, KERNELS)
        if memory is not None and kernels == "torch":
            raise InputError("memory", 'beside kernels="torch"', 'kernels="auto"')
        self.kernels = kernels
        self.engine = Engine(Options(execution="sequential", discount=1.0, memory=memory))

    def step(self, model: TimeModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        steps = batch.x.shape[1]
        if self.kernels == "auto" and (compiled(model) or self.engine.options.memory is not None):
            loss, _, state = train(model, batch, self.engine, self.engine.credit_block(steps, len(batch.x)), 1.0)
            return StepResult(loss, {"depth": float(self.engine.metrics()["depth"])}, state=state)
        loss, _, state = forward_backward_state(model, batch, sequential)
        return StepResult(loss, {"depth": 2.0 * steps * len(model.cells)}, state=state)  # layer after layer

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: updates do not depend on each other."""
        return {}


def compiled(model: TimeModel) -> bool:
    """Return whether the model has cells, and each a compiled roll on this device."""
    return bool(model.cells) and all(
        cell.recipe is not None and cell.compiled(cell.parameters()[0]) for cell in model.cells
    )
