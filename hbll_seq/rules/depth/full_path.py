"""The full path as one network (`paths="full"`): feedback messages over layers, and credit that grows.

Node n is module f_n with its output z_n, and h_n the gradient of the shared head's loss on z_n. The message on z_n is

    l_n = (1 - g_{n+1}) h_n + g_{n+1} J_{n+1}^T l_{n+1}        l_M = h_M at the last node

(docs/method.md#layered-networks). With the discount g = 0 every node learns from its own head alone, with g = 1 the
gradient is backpropagation's. Each module learns from its own graph and l_n; no graph joins two modules. What is not in
order is solved for all modules at once (`messages.py`), and finished in order where it misses its tolerance.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.engine.effort import Effort
from hbll_seq.losses import objective
from hbll_seq.models.layered import Layered
from hbll_seq.rules.base import StepResult
from hbll_seq.rules.depth.bank import Bank
from hbll_seq.rules.depth.credit import Credit
from hbll_seq.rules.depth.messages import Solved, solve_messages, solve_states
from hbll_seq.rules.depth.rolled import Rolled, in_order

FAILURES, PAUSE = 3, 100  # so many updates in a row that had to be finished in order, then so many in order throughout


@dataclass
class Ran:
    """What one update did.

    Attributes:
        execution: the schedule it set out with.
        boundaries, messages: "exact", "within tolerance" or "forced" (a fixed count, above the tolerance).
        gave_up: unknowns that missed their tolerance and were found in order.
        calls: calls of modules, one after the other.
        sweeps, corrections, inconsistency, feedback_residual: see `HBLL`.
    """

    execution: str
    boundaries: str = "exact"
    messages: str = "exact"
    gave_up: list[str] = field(default_factory=list)
    calls: int = 0
    sweeps: int = 0
    corrections: int = 0
    inconsistency: float = 0.0
    feedback_residual: float = 0.0

    def metrics(self) -> dict[str, float | str]:
        """Figures for the history; the head's calls forth and back count too."""
        given = f"gave up {' and '.join(self.gave_up)}, then in order" if self.gave_up else self.execution
        return {
            "schedule": given, "boundaries": self.boundaries, "messages": self.messages, "sweeps": float(self.sweeps),
            "corrections": float(self.corrections), "inconsistency": self.inconsistency,
            "feedback_residual": self.feedback_residual, "depth": float(self.calls + 2),
        }  # fmt: skip


class FullPath:
    """Updates of the full path.

    Args:
        discount, execution, batched: see `LayeredHBLL`.
        sweeps, feedback: efforts of the two unknowns.
    """

    def __init__(
        self, discount: float | str, execution: str, sweeps: Effort, feedback: Effort, batched: bool = True
    ) -> None:  # fmt: skip
        self.discount, self.execution, self.batched = discount, execution, batched
        self.sweeps, self.feedback = sweeps, feedback
        self.passes = 1.0  # over the data of a run; a loop of one's own says nothing, and repeats are seen as they come
        self.reset()

    def reset(self) -> None:
        """Forget what was measured of a model."""
        self.credit = Credit(self.passes)
        self._bank: tuple[Layered, Bank] | None = None
        self._updates = self._failed = self._until = 0

    def state_dict(self) -> dict[str, Any]:
        """See `Rule.state_dict`."""
        return {"counts": [self._updates, self._failed, self._until], **self.credit.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Rule.load_state_dict`."""
        self._updates, self._failed, self._until = (int(one) for one in state["counts"])
        self.credit.load_state_dict(state)

    def step(self, model: Layered, batch: Batch, progress: float) -> StepResult:
        """See `Rule.step`."""
        bank = self._modules(model)
        start, modules = model.embed(batch.x), model.depth - 1
        if modules > 1 and isinstance(self.discount, str):
            self.credit.look(batch.x)
        discount = self._discount(modules, start.detach(), progress)
        ran = Ran("sequential" if modules == 1 or self._updates < self._until else self.execution)
        rolled = self._states(model, bank, start.detach(), ran)
        heads, losses = _heads(model, rolled.states, discount.tolist(), batch)
        at_once = ran.execution != "sequential" and not ran.gave_up
        arrived = (self._at_once if at_once else self._in_order)(rolled, heads, discount, ran)
        if start.requires_grad:
            start.backward(arrived)
        self._updates, self._failed = self._updates + 1, self._failed + 1 if ran.gave_up else 0
        if self._failed == FAILURES:
            self._failed, self._until = 0, self._updates + PAUSE
        metrics = ran.metrics() | {"discount": float(discount.mean()) if modules > 1 else 1.0}
        if ran.execution == "parallel":
            metrics["modules"] = "at once" if bank.alike else "one by one"
        return StepResult(float(losses[-1]), metrics, torch.stack(losses).cpu() if len(losses) == modules else None)

    def _modules(self, model: Layered) -> Bank:
        if self._bank is None or self._bank[0] is not model:
            if self._bank is not None:
                self.reset()  # it was measured of another model
            self._bank = (model, Bank(list(model.layers), self.batched))
        elif self.execution == "parallel":
            self._bank[1].look()
        return self._bank[1]

    def _discount(self, modules: int, like: Tensor, progress: float) -> Tensor:
        """The discount of modules 2..M."""
        if isinstance(self.discount, str):
            return self.credit.risen(progress) * self.credit.share(modules, like)
        return like.new_full((modules - 1,), self.discount)

    def _states(self, model: Layered, bank: Bank, start: Tensor, ran: Ran) -> Rolled:
        """Visit all modules, each on the state before it."""
        if ran.execution == "parallel":
            rolled, swept = solve_states(bank, start, self.credit.carries(model.depth - 1, start), self.sweeps)
            ran.sweeps, ran.inconsistency, ran.calls = swept.iterations, swept.residuals[-1], swept.iterations + 2
            if rolled is not None:
                ran.boundaries = _certainty(swept)
                return rolled
            ran.gave_up.append("states")
            ran.inconsistency = 0.0
        ran.calls += model.depth - 1
        return in_order(model, start)

    def _at_once(self, rolled: Rolled, heads: list[Tensor], discount: Tensor, ran: Ran) -> Tensor:
        """Solve for the messages, learn from them, and return the message on the embedding."""
        carry = self.credit.carries(len(heads), heads[0])
        solved = solve_messages(rolled, torch.stack(heads), discount, carry, self.feedback)
        ran.corrections, ran.feedback_residual = solved.iterations, solved.residuals[-1]
        ran.calls += solved.iterations + 1
        if not (solved.converged or self.feedback.fixed):
            ran.gave_up.append("messages")
            return self._in_order(rolled, heads, discount, ran)
        ran.messages = _certainty(solved)
        ran.calls += 1
        pulled = rolled.learn(solved.values)
        self.credit.observe(list(solved.values[1:]), list(pulled[1:]))
        return pulled[0]

    def _in_order(self, rolled: Rolled, heads: list[Tensor], discount: Tensor, ran: Ran) -> Tensor:
        """As `_at_once`, from the last module to the first; exact."""
        ran.feedback_residual = 0.0
        ran.calls += len(heads)
        messages, pulled, given = list(heads), list(heads), discount.tolist()
        if rolled.together:  # the graphs of one call: as many passes as modules
            for _ in given:
                found = rolled.pull(torch.stack(messages))
                messages = [*(h + g * q for h, g, q in zip(heads[:-1], given, found[1:], strict=True)), heads[-1]]
            pulled = list(rolled.learn(torch.stack(messages)))
        else:
            for n in range(len(heads) - 1, -1, -1):
                pulled[n] = rolled.learn_one(n, messages[n])
                if n:
                    messages[n - 1] = torch.add(heads[n - 1], pulled[n], alpha=given[n - 1])
        if given:
            self.credit.observe(messages[1:], pulled[1:])
        return pulled[0]


def _heads(
    model: Layered, states: list[Tensor], discount: list[float], batch: Batch
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Score the nodes that learn from their own head, and add the head's gradients to their `.grad`.

    Returns:
        Gradients on all states `(B, ...)`, weighted with what the messages leave; the losses of the scored nodes.
    """
    weights = [*(1.0 - g for g in discount), 1.0]
    leaves = [one.detach().requires_grad_() for one in states]
    scored = [
        (w, objective(model.objective, model.head(z), batch)[0]) for z, w in zip(leaves, weights, strict=True) if w
    ]
    torch.stack([w * loss for w, loss in scored]).sum().backward()
    found = [torch.zeros_like(z) if z.grad is None else z.grad for z in leaves]
    return found, [loss.detach() for _, loss in scored]


def _certainty(solved: Solved) -> str:
    return "within tolerance" if solved.converged else "forced"
