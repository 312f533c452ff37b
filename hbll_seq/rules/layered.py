"""`hbll` for layered networks: Algorithm 1 of the paper, top-down over the tree of depth.

z_0 is the embedded input, the target stands at node N. All nodes n of a height, each between parents i < n < j:

    a_n = f_n(z_i)                                      forward message
    z_n = posterior mean of (a_n, right message) + noise     `hbll_seq.inverse`
    l_n = mismatch(f_n(z_i), z_n) + mismatch(f_j(z_n), z_j) + CE(head(f_n(z_i)), y)

with z_i, z_n, z_j constants. The second term is CE(head(z_n), y) where j = N. Every term trains one module (and the
shared head, and the embedding where i = 0): no gradient crosses a node. The paper does not write l_n
out; the head's cross-entropy on every node is ours. A height is one batched call each for forward messages,
right messages and right arcs, so all of it is log2 N calls deep.
"""

from typing import ClassVar

import torch
from torch import Tensor

from hbll_seq import paths
from hbll_seq.bank import Bank
from hbll_seq.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.inverse import bernoulli_mismatch, bernoulli_posterior, gaussian_mismatch, gaussian_posterior
from hbll_seq.models.layered import Layered
from hbll_seq.objective import objective, per_sequence
from hbll_seq.rules.base import Rule, StepResult, register


@register
class LayeredHBLL(Rule[Layered]):
    """Hierarchical block-local learning over depth.

    Args:
        noise: standard deviation of what is added to every z_n while training.
        left: weight of the mismatch of a node with its posterior.
        right: weight of the mismatch of the right arc.
        head: weight of the head's loss on every node.
        step: of the right message, 0..1 of the nodes' variance; None measures the best one a node and input,
            0 ignores the right parent.
        variance: of Gaussian nodes, s^2 (activations are of order 1).
        batched: False runs a height module by module (the reference for tests; same results).
    """

    name = "hbll"
    family: ClassVar[str] = "layered"

    def __init__(
        self, *, noise: float = 0.0, left: float = 1.0, right: float = 1.0, head: float = 1.0,
        step: float | None = None, variance: float = 1.0, sweeps: int = 0, batched: bool = True,
    ) -> None:  # fmt: skip
        for name, value in (("noise", noise), ("left", left), ("right", right), ("head", head)):
            if not value >= 0:
                raise InputError(name, value, "a number >= 0")
        if not variance > 0:
            raise InputError("variance", variance, "a number > 0")
        if step is not None and not 0 <= step <= 1:
            raise InputError("step", step, "a number in 0..1, or None")
        self.noise, self.left, self.right, self.head = float(noise), float(left), float(right), float(head)
        self.message_step, self.variance, self.batched = step, float(variance), batched
        self.sweeps = sweeps
        self._bank: tuple[Layered, Bank] | None = None

    def _modules(self, model: Layered) -> Bank:
        if self._bank is None or self._bank[0] is not model:
            self._bank = (model, Bank(list(model.layers), self.batched))
        return self._bank[1]

    def step(self, model: Layered, batch: Batch) -> StepResult:
        """See `Rule.step`."""
        bank, last = self._modules(model), model.depth
        z: dict[int, Tensor] = {0: model.embed(batch.x)}
        total = z[0].new_zeros(())
        sizes: list[float] = []
        heads: dict[int, float] = {}
        levels = paths.level_nodes(last)
        for nodes in levels:
            parents = [self._parents(n, last) for n in nodes]
            forward = bank(nodes, torch.stack([z[i] if i == 0 else z[i].detach() for i, _ in parents]))  # (m, B, ...)
            inner = [k for k, (_, j) in enumerate(parents) if j < last]  # the rest, at most one, has the target
            targets = torch.stack([z[parents[k][1]].detach() for k in inner]) if inner else None
            right_nodes = [parents[k][1] for k in inner]

            def mismatch(
                states: Tensor, inner: list[int] = inner, right_nodes: list[int] = right_nodes,
                targets: Tensor | None = targets,
            ) -> Tensor:  # fmt: skip
                """Cost `(m, B)` of the right arcs from `states` `(m, B, ...)`."""
                rows: list[Tensor | None] = [None] * len(states)
                if targets is not None:
                    arcs = bank(right_nodes, states[inner])
                    for k, row in zip(inner, self._mismatch(model, arcs, targets), strict=True):
                        rows[k] = row
                for k in range(len(states)):
                    if rows[k] is None:
                        rows[k] = per_sequence(model.objective, model.head(states[k]), batch)
                return torch.stack([row for row in rows if row is not None])

            a = forward.detach()
            posterior = self._posterior(model, a, mismatch)
            if self.noise:
                posterior = posterior + self.noise * torch.randn_like(posterior)
                if model.nodes == "bernoulli":
                    posterior = posterior.clamp(0, 1)
            if self.left and self.message_step != 0:
                total = total + self.left * self._mismatch(model, forward, posterior).mean(1).sum()
            if self.right:
                cost = mismatch(posterior).mean(1)
                total = total + self.right * cost.sum()
                sizes += cost.detach().tolist()
            if self.head:
                for n, one in zip(nodes, forward, strict=True):
                    loss = objective(model.objective, model.head(one), batch)[0]
                    total = total + self.head * loss
                    heads[n] = float(loss.detach())
            for n, one in zip(nodes, posterior, strict=True):
                z[n] = one
        total = total + self._sweep(model, bank, z, batch)
        total.backward()
        per_node = torch.tensor([heads.get(n, float("nan")) for n in range(1, last)])
        first = heads.get(levels[0][0], float("nan")) if self.head else float(total.detach())
        metrics = {
            "objective": float(total.detach()),
            "mismatch": sum(sizes) / max(len(sizes), 1),
            "depth": float(len(levels)),  # batched calls one after the other, of the forward messages
        }
        return StepResult(first, metrics, per_node)

    def _sweep(self, model: Layered, bank: Bank, z: dict[int, Tensor], batch: Batch) -> Tensor:
        """Objective of the full path's arcs n-1 -> n, all at once, from states `sweeps` - 1 sweeps on."""
        total = z[0].new_zeros(())
        if not self.sweeps:
            return total
        nodes = list(range(1, model.depth))
        target = torch.stack([z[n].detach() for n in nodes])
        states = target
        start = z[0].unsqueeze(0)
        for k in range(self.sweeps):
            last = k + 1 == self.sweeps
            with torch.set_grad_enabled(last):
                states = bank(nodes, torch.cat([start if last else start.detach(), states[:-1]]))
        total = total + self.left * self._mismatch(model, states, target).mean(1).sum()
        if self.head:
            for one in states:
                total = total + self.head * objective(model.objective, model.head(one), batch)[0]
        return total

    @staticmethod
    def _parents(n: int, last: int) -> tuple[int, int]:
        half = n & -n
        return n - half, min(n + half, last)

    def _mismatch(self, model: Layered, predicted: Tensor, target: Tensor) -> Tensor:
        if model.nodes == "bernoulli":
            return bernoulli_mismatch(predicted, target)
        return gaussian_mismatch(predicted, target, self.variance)

    def _posterior(self, model: Layered, a: Tensor, cost) -> Tensor:  # type: ignore[no-untyped-def]
        if model.nodes == "bernoulli":
            return bernoulli_posterior(a, cost, self.message_step)
        return gaussian_posterior(a, cost, self.variance, self.message_step)
