"""`hbll` for layered networks: Algorithm 1 of the paper over the tree of depth, and local losses along the full path.

z_0 is the embedded input, the target stands at node N. All nodes n of a height, each between parents i < n < j:

    a_n = f_n(z_i)                                          forward message
    z_n = a_n, or the posterior mean of (a_n, right message)     `hbll_seq.rules.depth.posterior`; + noise
    l_n = CE(head(a_n), y) + right * mismatch(f_j(z_n), z_j)     (+ mismatch(a_n, z_n) with a right message)

with z_i, z_n, z_j constants; the mismatch is CE(head(z_n), y) where j = N. The tree trains every arc of every path, but
each from the states of shortest routes; on the full path a module meets what its neighbours make of theirs. So the full
path is visited too, with the head's loss on every node, all nodes at once. Either every node reads the state that its
left neighbour had at the step before, of the batch of that step (`pipeline.py`): one call, and the full path's own
states. Or S Jacobi sweeps z_n <- f_n(z_{n-1}), as the paper does over time, move the tree's states towards it: S calls,
the loss after the last. Every term trains one module (and the shared head, and the embedding where i = 0): no gradient
crosses a node. Depth: log2 N batched calls for the tree, and 1 or S.

The paper does not write l_n out; this reading is ours, measured in docs/notes on layered networks. By default neither
side of the right message is used (`right=0`, `step=0`): states that know the label train modules for inputs they never
meet, and a right parent as target makes states grow. The shared head on every node is what drives learning.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.losses import objective, per_sequence
from hbll_seq.models import depth_tree
from hbll_seq.models.layered import Layered
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.depth.bank import Bank
from hbll_seq.rules.depth.pipeline import Flight, alike
from hbll_seq.rules.depth.posterior import (
    Cost,
    bernoulli_mismatch,
    bernoulli_posterior,
    gaussian_mismatch,
    gaussian_posterior,
)


@register
class LayeredHBLL(Rule[Layered]):
    """Hierarchical block-local learning over depth.

    Args:
        sweeps: "pipelined": one call for the full path, node n on the batch of n - 1 steps ago; the first step
            fills the pipeline by sweeps, and the loss reported later is that of the batch which arrives at node N-1.
            Or S, sweeps over the full path, "auto" for ceil(log2 N); 0 for Algorithm 1 alone.
        tree: weight of the tree's losses beside the full path's. Less favours the full path over short ones.
        right: weight of a node's mismatch with its right parent. Off by default: its target is the same module's output
            elsewhere, and chasing it makes the states of transformers grow.
        step: how far states move along the right message: 0 not at all, up to 1 (in units of the nodes'
            variance), or None for the measured posterior mean.
        noise: standard deviation of what is added to the tree's states while training.
        variance: s^2 of Gaussian nodes, at least: where a node's states have a larger mean square, that is its variance
            as a target, so that a mismatch never outgrows the states it is about.
        batched: False runs a height module by module (the reference for tests; same results).
    """

    name = "hbll"
    family: ClassVar[str] = "layered"

    def __init__(
        self, *, sweeps: int | str = "pipelined", tree: float = 1.0, right: float = 0.0, step: float | None = 0.0,
        noise: float = 0.0, variance: float = 1.0, batched: bool = True,
    ) -> None:  # fmt: skip
        number = isinstance(sweeps, int) and not isinstance(sweeps, bool) and sweeps >= 0
        if sweeps not in ("pipelined", "auto") and not number:
            raise InputError("sweeps", repr(sweeps), 'an integer >= 0, "auto" or "pipelined"')
        for name, value in (("tree", tree), ("right", right), ("noise", noise)):
            if not (isinstance(value, int | float) and value >= 0):
                raise InputError(name, repr(value), "a number >= 0")
        if not (isinstance(variance, int | float) and variance > 0):
            raise InputError("variance", repr(variance), "a number > 0")
        if step is not None and not (isinstance(step, int | float) and 0 <= step <= 1):
            raise InputError("step", repr(step), "a number in 0..1, or None")
        self.sweeps, self.tree, self.right, self.message_step = sweeps, tree, right, step
        self.noise, self.variance, self.batched = noise, float(variance), batched
        self._bank: tuple[Layered, Bank] | None = None
        self._flight = Flight()

    def state_dict(self) -> dict[str, Any]:
        """See `Rule.state_dict`."""
        return self._flight.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Rule.load_state_dict`."""
        self._flight.load_state_dict(state)

    def _modules(self, model: Layered) -> Bank:
        if self._bank is None or self._bank[0] is not model:
            if self._bank is not None:
                self._flight = Flight()  # what is under way is another model's
            self._bank = (model, Bank(list(model.layers), self.batched))
        return self._bank[1]

    def step(self, model: Layered, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        bank = self._modules(model)
        start = model.embed(batch.x)
        levels = depth_tree.level_nodes(model.depth)
        z, total, mismatch = self._tree(model, bank, start, batch, levels)
        total = self.tree * total
        loss, per_node, calls = math.nan, None, 0
        if self.sweeps != 0:
            states, batches, calls = self._path(model, bank, start, z, batch)
            each = [objective(model.objective, model.head(s), b)[0] for s, b in zip(states, batches, strict=True)]
            total = total + torch.stack(each).sum()
            per_node = torch.stack(each).detach().cpu()
            loss = float(per_node[-1])
        total.backward()
        metrics = {
            "objective": float(total.detach()),
            "mismatch": mismatch,
            "depth": float(len(levels) + calls),  # batched calls one after the other
        }
        return StepResult(loss if calls else metrics["objective"], metrics, per_node)

    def _tree(
        self, model: Layered, bank: Bank, start: Tensor, batch: Batch, levels: list[list[int]]
    ) -> tuple[dict[int, Tensor], Tensor, float]:
        """Algorithm 1: states of all nodes (constants), the sum of l_n, the mean mismatch."""
        z, total, sizes = {0: start}, start.new_zeros(()), []
        for nodes in levels:
            parents = [_parents(n, model.depth) for n in nodes]
            arcs = torch.stack([z[i] for i, _ in parents])  # (m, B, ...); only z_0 has a graph, to the embedding
            forward = bank(nodes, arcs)
            cost = self._cost(model, bank, z, parents, batch)
            state = self._posterior(model, forward.detach(), cost)
            tokens = state[0, 0].numel() // state.shape[-1]
            if self.message_step != 0:
                total = total + self._mismatch(model, forward, state).mean(1).sum() / tokens
            if self.noise:
                state = state + self.noise * torch.randn_like(state)
                state = state.clamp(0, 1) if model.nodes == "bernoulli" else state
            if self.right:
                miss = cost(state).mean(1) / tokens
                total = total + self.right * miss.sum()
                sizes += miss.detach().tolist()
            for n, one, value in zip(nodes, forward, state, strict=True):
                total = total + objective(model.objective, model.head(one), batch)[0]
                z[n] = value
        return z, total, sum(sizes) / max(len(sizes), 1)

    def _cost(
        self, model: Layered, bank: Bank, z: dict[int, Tensor], parents: list[tuple[int, int]], batch: Batch
    ) -> Cost:
        """The right arcs of a height: states `(m, B, ...)` -> how badly they explain their right parents, `(m, B)`."""
        inner = [k for k, (_, j) in enumerate(parents) if j < model.depth]
        nodes = [parents[k][1] for k in inner]
        targets = torch.stack([z[j].detach() for j in nodes]) if inner else None

        def cost(states: Tensor) -> Tensor:
            # at most one node of a height has the target on its right: the last one
            rows = [] if targets is None else [self._mismatch(model, bank(nodes, states[: len(inner)]), targets)]
            if len(inner) < len(parents):
                rows.append(per_sequence(model.objective, model.head(states[-1]), batch).unsqueeze(0))
            return torch.cat(rows)

        return cost

    def _path(
        self, model: Layered, bank: Bank, start: Tensor, z: dict[int, Tensor], batch: Batch
    ) -> tuple[list[Tensor], list[Batch], int]:
        """States of nodes 1..N-1 on the full path, with gradients to their own modules; their targets; calls made."""
        pipelined = self.sweeps == "pipelined"
        if pipelined and self._flight.under_way(start):
            return self._pipelined(bank, start, batch)
        nodes = list(range(1, model.depth))
        sweeps = self.sweeps if isinstance(self.sweeps, int) else (model.depth - 1).bit_length()
        states = torch.stack([z[n] for n in nodes])
        for k in range(sweeps):
            final = k + 1 == sweeps
            first = start if final else start.detach()
            with torch.set_grad_enabled(final):
                states = bank(nodes, torch.cat([first.unsqueeze(0), states[:-1]]))
        batches = [batch] * len(nodes)
        if pipelined:
            self._flight.keep(list(states), batches)
        return list(states), batches, sweeps

    def _pipelined(self, bank: Bank, start: Tensor, batch: Batch) -> tuple[list[Tensor], list[Batch], int]:
        inputs = self._flight.board(start, batch)
        states = [start] * len(inputs)
        groups = alike(inputs)  # one, but for the steps after a batch of another size
        for group in groups:
            out = bank([i + 1 for i in group], torch.stack([inputs[i][0] for i in group]))
            for i, state in zip(group, out, strict=True):
                states[i] = state
        batches = [b for _, b in inputs]
        self._flight.keep(states, batches)
        return states, batches, len(groups)

    def _mismatch(self, model: Layered, predicted: Tensor, target: Tensor) -> Tensor:
        if model.nodes == "bernoulli":
            return bernoulli_mismatch(predicted, target)
        # a module's mismatch bootstraps from its own output elsewhere: in absolute units that can grow without end
        size = target.detach().flatten(2).square().mean(-1)
        return gaussian_mismatch(predicted, target, size.clamp(min=self.variance))

    def _posterior(self, model: Layered, a: Tensor, cost: Cost) -> Tensor:
        if model.nodes == "bernoulli":
            return bernoulli_posterior(a, cost, self.message_step)
        return gaussian_posterior(a, cost, self.variance, self.message_step)


def _parents(n: int, last: int) -> tuple[int, int]:
    """Parents of node n in the tree over 0..last."""
    half = n & -n
    return n - half, min(n + half, last)
