"""`hbll`: Hierarchical Block-Local Learning for recurrent networks (docs/method.md).

One update, for every layer of the stack:

1. find boundary states: by consistency sweeps over all blocks at once, or exactly in order;
2. roll the blocks from these constants, with local losses and no graph between blocks;
3. find feedback messages: by a reverse scan and block-local corrections until they agree, or exactly in order;
4. sum the gradients of every block's own objective.

The engine chooses the schedule (`engine.schedule`) and, from measured residuals, the number of sweeps and corrections
(`engine.controller`), unless given. This module chooses the discount.
"""

import copy
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import generator_states, repeated_draws
from hbll_seq.data.scalars import integer
from hbll_seq.distributed.shards import current
from hbll_seq.distributed.share import shape_of
from hbll_seq.engine import Engine, Options
from hbll_seq.engine.blocks import to_blocks
from hbll_seq.errors import InputError
from hbll_seq.models.over_time import TimeModel
from hbll_seq.rules import fastest
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import deployed_loss, need_layers, train


@register
class HBLL(Rule[TimeModel]):
    """Hierarchical block-local learning of recurrent networks (docs/method.md#blocks-boundaries-two-unknowns).

    All other arguments are the engine's: see `hbll_seq.engine.Options`.

    Args:
        block_size: time steps of a credit block, or "auto".
        check_every: updates between two checks, 0 for never: of the loss against the deployed chain's, if boundaries
            are not exact, and of the amplification of messages on their way back.
        discount: factor on the feedback message that enters a credit block, 0 to 1. "auto": 1 for blocks without
            targets, so that credit for a distant outcome is whole. For the others it is `progress`, which rises from
            0 to 1 over a run: a block learns first from its own targets, then from targets progressively further
            ahead (docs/method.md#discount). Also 1 for bidirectional models. A number below 1 applies to both
            directions; the credit blocks of the backward one are those of the reversed sequence.
    """

    name = "hbll"
    carries_state = True
    spans_time = True
    replaced: ClassVar[dict[str, str]] = {
        "feedback_weight": "discount=, a factor on every message that enters a credit block: 1 gives BPTT's gradient, "
        '0 that of truncated BPTT, "auto" grows over the run',
    }

    def __init__(
        self, block_size: int | str = "auto", sweeps: int | str = "auto", feedback: int | str = "auto",
        pull: float | str = "auto", *, tolerance: float = 3e-4, feedback_tolerance: float = 3e-4,
        carry: str = "calibrated", execution: str = "auto", execution_block: int | str = "auto",
        group: int | None = None, memory: int | str | None = None, most: int = 8, check_every: int = 50,
        discount: float | str = "auto", precision: str = "float32", capture: bool = False,
    ) -> None:  # fmt: skip
        check_every = integer("check_every", check_every, least=0)
        options = Options(
            block_size, sweeps, feedback, pull, tolerance, feedback_tolerance, carry, execution, execution_block,
            group, memory, most, discount, precision, capture,
        )  # fmt: skip
        self.engine = Engine(options)
        self.check_every = check_every

    def unit(self, steps: int, batch: int) -> int:
        """See `Rule.unit`: a span ends where a credit block does."""
        return self.engine.credit_block(steps, batch) if self.engine.options.discount != 1 else 1

    def setup(self, model: TimeModel, generator: torch.Generator) -> None:
        """Refuse a model or device that cannot meet the options; forget everything learned of another model."""
        need_layers(model, self.name)
        if self.engine.options.execution == "measured" and not model.whole_layers:
            raise InputError(
                "execution", '"measured" for layers inside a module', '"auto": only whole models are timed'
            )
        self.engine.reset()
        self.engine.check(model.cells, next(model.parameters()).device)

    def step(self, model: TimeModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        engine, pull = self.engine, self.engine.pull
        credit = engine.credit_block(*shape_of(batch))
        discount = self.discount(model, batch, credit, progress)
        shards = current()
        if shards is not None and isinstance(discount, float) and discount == 1:
            shards.discount = None
        elif shards is not None:  # gamma of the span's last block is for the message from the next span
            gamma = torch.as_tensor(discount, device=batch.x.device)
            shards.discount = (gamma if gamma.ndim else gamma.view(1, 1, 1)).expand(-1, len(batch.x), 1)[-1]
        else:
            fastest.pin(self, model, batch, progress)
        check = bool(self.check_every) and engine.controller.steps % self.check_every == 0 and shards is None
        drawn = generator_states(batch.x.device) if check and model.drops else None
        loss, losses, state = train(model, batch, engine, credit, discount, probe=check)
        metrics = engine.metrics() | {"pull": pull, "discount": float(torch.as_tensor(discount).mean())}
        return StepResult(loss, metrics | (self._checked(model, batch, loss, drawn) if check else {}), losses, state)

    def _checked(self, model: TimeModel, batch: Batch, loss: float, drawn: list[Tensor] | None) -> dict[str, float]:
        """Make the checks of every `check_every` updates, adapt the controller, and return their figures.

        The generators were in the states `drawn` before the update: the deployed chain drops the same values.
        """
        engine, found = self.engine, dict[str, float]()
        if (amplification := engine.amplification()) is not None:
            engine.controller.amplified(amplification, next(model.parameters()).dtype)
            found["amplification"] = amplification
        if not engine.exact():
            options = engine.options
            grouped = options.group is not None or options.memory is not None
            with nullcontext() if drawn is None else repeated_draws(drawn, batch.x.device):
                deployed = deployed_loss(model, batch, grouped=grouped)
            engine.controller.compare(loss, deployed)
            found["deployed_gap"] = deployed - loss
        return found

    def timed_by(self, engine: Engine) -> "HBLL":
        """Return the same rule with another engine and without checks, for timing schedules (`rules.fastest`)."""
        twin = copy.copy(self)
        twin.engine, twin.check_every = engine, 0
        return twin

    def discount(self, model: TimeModel, batch: Batch, credit: int, progress: float) -> float | Tensor:
        """Return the factor on the message that enters a credit block: a number, or `(m, B, 1)`."""
        given = self.engine.options.discount
        if not isinstance(given, str):
            return float(given)
        if not model.targets_in_time:
            return 1.0
        if batch.mask is None or bool(batch.mask.all()):
            return progress
        counted = to_blocks(batch.mask.unsqueeze(-1).float(), credit).amax(0)  # (m, B, 1): any target in the block
        return 1.0 - (1.0 - progress) * counted

    def state_dict(self) -> dict[str, Any]:
        """Return the engine's state."""
        return self.engine.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the engine's state (after `setup`)."""
        self.engine.load_state_dict(state)
