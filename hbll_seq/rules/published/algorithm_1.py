"""`hbll-v1` for layered networks: Algorithm 1 of the paper over the tree of depth (arXiv:2606.21497, section 1).

The nodes of a height are visited from the root down, as by rule "hbll" with `paths="any"`
(docs/method.md#every-path-a-network). Node n has parents i < n < j. The message of the left parent is a_n = f_n(z_i).
The message of the right parent is the cost C(z) of a state z, in nats: how badly z explains z_j through module f_j. The
posterior mean of the two (`posterior.py`) is the node's state, a constant:

    z_n = posterior mean of (a_n, C) + noise
    l_n = loss(head(a_n), y) + mismatch(a_n, z_n) + right * C(z_n)

C(z) is mismatch(f_j(z), z_j), or the loss of the head's prediction from z where j is the head. `mismatch` is the KL
divergence of two nodes of equal variance. The paper does not write l_n out: this is our reading of it.

Rule "hbll" leaves all of it out. States that know the label train modules for inputs they never meet, and a right
parent as target makes the states of transformers grow (docs/method.md#where-we-depart-from-the-paper).
"""

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import number, positive
from hbll_seq.losses import per_sequence
from hbll_seq.models.layered import Layered
from hbll_seq.rules.base import register
from hbll_seq.rules.depth.any_path import AnyPath, Height, Visit
from hbll_seq.rules.depth.bank import Bank
from hbll_seq.rules.published.posterior import (
    Cost,
    bernoulli_mismatch,
    bernoulli_posterior,
    gaussian_mismatch,
    gaussian_posterior,
)


@register
class LayeredHBLLv1(AnyPath):
    """Train every module by the published local objective: posterior means as states, right parents as targets.

    The defaults are the paper's reading: Algorithm 1 alone, mismatches of weight 1, the fixed step of one half (with
    the sign that goes down: the printed one goes up), and no noise, as in the paper's MNIST runs.

    Args:
        sweeps: visits of the full path, as for rule "hbll"; 0, the default, for none.
        tree: weight of the tree's losses beside the full path's.
        right: weight of a node's mismatch with its right parent. In transformers the target, the same module's output
            elsewhere, makes states grow.
        step: how far states move along the right parent's message, in units of the nodes' variance: 0 leaves the
            forward message, up to 1; None measures the posterior mean, which a fixed step overshoots where weights
            are large.
        noise: standard deviation of the noise added to states. The paper samples them with s / sqrt(2).
        variance: s^2 of Gaussian nodes, at least. Where a target's mean square is larger, that is its variance, so that
            a mismatch never outgrows the states it is about.
        batched: False runs the nodes of a height one by one (the reference for tests; same results).

    Raises:
        InputError: an option out of range.
    """

    name = "hbll-v1"

    def __init__(
        self, *, sweeps: int | str = 0, tree: float = 1.0, right: float = 1.0, step: float | None = 0.5,
        noise: float = 0.0, variance: float = 1.0, batched: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(sweeps=sweeps, tree=tree, batched=batched)
        self.right, self.noise, self.variance = (
            number("right", right),
            number("noise", noise),
            positive("variance", variance),
        )
        self.message_step = None if step is None else number("step", step, most=1.0, extra=", or None")

    def _visit(self, model: Layered, bank: Bank, height: Height, batch: Batch) -> Visit:
        """Move the states of a height along the right parents' messages; their mismatches are losses."""
        cost = self._cost(model, bank, height, batch)
        state = self._posterior(model, height.forward.detach(), cost)
        tokens = state[0, 0].numel() // state.shape[-1]
        losses, measured = [], {}
        if self.message_step != 0:
            losses.append(self._mismatch(model, height.forward, state).mean(1).sum() / tokens)
        if self.noise:
            state = state + self.noise * torch.randn_like(state)
            state = state.clamp(0, 1) if model.nodes == "bernoulli" else state
        if self.right:
            miss = cost(state).mean(1) / tokens
            losses.append(self.right * miss.sum())
            measured["mismatch"] = miss.detach().tolist()
        return Visit(state, losses, measured)

    def _cost(self, model: Layered, bank: Bank, height: Height, batch: Batch) -> Cost:
        """Make the cost of a height: of states `(m, B, ...)`, how badly they explain their right parents, `(m, B)`."""
        inner = [k for k, (_, j) in enumerate(height.parents) if j < model.depth]
        nodes = [height.parents[k][1] for k in inner]
        targets = torch.stack([height.states[j].detach() for j in nodes]) if inner else None

        def cost(states: Tensor) -> Tensor:
            # at most one node of a height has the target on its right: the last one
            rows = [] if targets is None else [self._mismatch(model, bank(nodes, states[: len(inner)]), targets)]
            if len(inner) < len(height.parents):
                rows.append(per_sequence(model.objective, model.head(states[-1]), batch).unsqueeze(0))
            return torch.cat(rows)

        return cost

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
