"""`hbll`: Hierarchical Block-Local Learning for recurrent networks (docs/method.md).

One step, for every layer of the stack:

1. boundary states: by consistency sweeps with all blocks at once, or exactly by going through them in order;
2. the blocks rolled from those constants, local losses, no graph between blocks;
3. feedback messages by a reverse scan, corrected block-locally until they agree, or exactly in order;
4. the gradient of every block's own objective, summed.

What runs at the same time is decided by the engine (`engine.schedule`), how many sweeps and corrections are spent by
what is measured (`engine.controller`), unless given. What a discount does to credit is decided here.
"""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.engine import Engine, Options
from hbll_seq.engine.blocks import to_blocks
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules import fastest
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import deployed_loss, train


@register
class HBLL(Rule[SequenceModel]):
    """Hierarchical block-local learning.

    Arguments that are not below are the engine's: see `hbll_seq.engine.Options`.

    Args:
        block_size: steps of a credit block, or "auto".
        check_every: steps between two checks: of the loss against the deployed chain's, where boundaries are not exact,
            and of how far messages are amplified on their way back; 0 for never.
        discount: factor on the feedback message that enters a credit block, 0 to 1. "auto": 1 for blocks without
            targets of their own, so that credit for a distant outcome is whole; for the others it is the `progress`
            that `step` is given, which rises from 0 to 1 over a run: a block learns first from its own targets, then
            from targets progressively further ahead (docs/method.md#discount).
    """

    name = "hbll"

    def __init__(
        self, block_size: int | str = "auto", sweeps: int | str = "auto", feedback: int | str = "auto",
        pull: float | str = "auto", *, tolerance: float = 3e-4, feedback_tolerance: float = 3e-4,
        carry: str = "calibrated", execution: str = "auto", execution_block: int | str = "auto",
        group: int | None = None, memory: int | str | None = None, most: int = 8, check_every: int = 50,
        discount: float | str = "auto", precision: str = "float32", capture: bool = False,
    ) -> None:  # fmt: skip
        if not (isinstance(check_every, int) and not isinstance(check_every, bool) and check_every >= 0):
            raise InputError("check_every", repr(check_every), "an integer >= 0")
        options = Options(
            block_size, sweeps, feedback, pull, tolerance, feedback_tolerance, carry, execution, execution_block,
            group, memory, most, discount, precision, capture,
        )  # fmt: skip
        self.engine = Engine(options)
        self.check_every = check_every

    def setup(self, model: SequenceModel, generator: torch.Generator) -> None:
        """Refuse a model or device that cannot have what was asked for; forget what was learned of another model."""
        self.engine.reset()
        self.engine.check(model.cells, next(model.parameters()).device)

    def step(self, model: SequenceModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        engine, pull = self.engine, self.engine.pull
        credit = engine.credit_block(batch.x.shape[1], len(batch.x))
        discount = self.discount(model, batch, credit, progress)
        fastest.pin(self, model, batch, progress)
        engine.probe = bool(self.check_every) and engine.controller.steps % self.check_every == 0
        loss, losses = train(model, batch, engine, credit, discount)
        metrics = engine.metrics() | {"pull": pull, "discount": float(torch.as_tensor(discount).mean())}
        return StepResult(loss, metrics | self._checked(model, batch, loss), losses)

    def _checked(self, model: SequenceModel, batch: Batch, loss: float) -> dict[str, float]:
        """What is looked at every `check_every` steps, and what follows from it."""
        engine, found = self.engine, dict[str, float]()
        if not engine.probe:
            return found
        if (amplification := engine.amplification()) is not None:
            engine.controller.amplified(amplification, next(model.parameters()).dtype)
            found["amplification"] = amplification
        if not engine.exact():
            options = engine.options
            deployed = deployed_loss(model, batch, grouped=options.group is not None or options.memory is not None)
            engine.controller.compare(loss, deployed)
            found["deployed_gap"] = deployed - loss
        return found

    def discount(self, model: SequenceModel, batch: Batch, credit: int, progress: float) -> float | Tensor:
        """A number, or `(m, B, 1)`: what every credit block does to the message that enters it."""
        given = self.engine.options.discount
        if not isinstance(given, str):
            return float(given)
        if model.task == "sequence":
            return 1.0
        if batch.mask is None or bool(batch.mask.all()):
            return progress
        counted = to_blocks(batch.mask.unsqueeze(-1).float(), credit).amax(0)  # (m, B, 1): any target in the block
        return 1.0 - (1.0 - progress) * counted

    def state_dict(self) -> dict[str, Any]:
        """The engine's."""
        return self.engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it (after `setup`)."""
        self.engine.load_state_dict(state)
