"""Every path a network (`paths="any"`): local losses over the tree of depth, and along the full path.

Node n is module f_n with its output z_n; z_0 is the embedded input, node N the head. An update has two parts
(docs/method.md#every-path-a-network). The first visits the nodes of the tree height by height, from the root down. Node
n reads the state of its left parent i, and the shared head predicts from what it makes of it:

    a_n = f_n(z_i)      l_n = loss(head(a_n), y)      z_n = a_n, as a constant

So every arc of every path is trained, but from states of the shortest routes. The second part visits the full path: all
nodes at once, with the head's loss on each. Either node n reads the state that node n - 1 had at the update before,
with the targets of that batch (`pipeline.py`): one call. Or S Jacobi sweeps z_n <- f_n(z_{n-1}) move the states of the
tree towards those of the full path, and the loss is taken after the last one: S calls.

Every term trains one module, the shared head and, where the state is z_0, the embedding: no gradient crosses a node.

A rule with further losses, or with other states than the forward messages, overrides `AnyPath._visit`; the
published reading of Algorithm 1 does (`hbll_seq.rules.published.algorithm_1`).
"""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import integer, number
from hbll_seq.losses import objective
from hbll_seq.models import depth_tree
from hbll_seq.models.layered import Layered
from hbll_seq.rules.base import Rule, StepResult
from hbll_seq.rules.depth.bank import Bank
from hbll_seq.rules.depth.pipeline import Pipeline, by_shape
from hbll_seq.tree import Tree


class Height(NamedTuple):
    """The m nodes of one height of the tree, with their forward messages.

    Attributes:
        nodes: their numbers.
        parents: left and right parent of each.
        forward: `(m, B, ...)` a_n, with gradient to the node's own module.
        states: z of all nodes of greater heights, by number; constants, but z_0.
    """

    nodes: list[int]
    parents: list[tuple[int, int]]
    forward: Tensor
    states: dict[int, Tensor]


class Visit(NamedTuple):
    """The states that a rule gives to the nodes of one height.

    Attributes:
        states: `(m, B, ...)`, constants.
        losses: scalars, added to the head's losses on these nodes.
        measured: one value a node by name of a metric; the history shows the mean over all nodes.
    """

    states: Tensor
    losses: list[Tensor]
    measured: dict[str, list[float]]


class AnyPath(Rule[Layered]):
    """Train every module of a layered network by its own loss, the shared head's, with no gradient between modules.

    An update visits the modules as a tree, in ceil(log2 N) batched calls from the root down; then it visits them all
    at once along the full path. Every route through the tree is trained, the full path included.

    Args:
        sweeps: how the full path is visited. "pipelined": in one call, node n on the batch of n - 1 updates ago. The
            first update fills the pipeline by sweeps; the loss reported later is that of the batch that arrives at
            node N-1. An integer S: by S sweeps on the newest batch; "auto" for ceil(log2 N) of them; 0 for the
            tree alone.
        tree: weight of the tree's losses beside the full path's. Less favours the full path over short ones.
        batched: False runs the nodes of a height one by one (the reference for tests; same results).

    Raises:
        InputError: an option out of range.
    """

    family: ClassVar[str] = "layered"

    def __init__(self, *, sweeps: int | str = "pipelined", tree: float = 1.0, batched: bool = True) -> None:
        if not (isinstance(sweeps, str) and sweeps in ("pipelined", "auto")):
            sweeps = integer("sweeps", sweeps, least=0, extra=', "auto" or "pipelined"')
        tree = number("tree", tree)
        self.sweeps, self.tree, self.batched = sweeps, tree, batched
        self.reset()

    def reset(self) -> None:
        """Forget the states of another model."""
        self._bank: tuple[Layered, Bank] | None = None
        self._pipeline = Pipeline()

    def mark(self, model: Layered) -> None:
        """See `Rule.mark`."""
        model.trained_for = "any"

    def state_dict(self) -> dict[str, Any]:
        """See `Rule.state_dict`."""
        return self._pipeline.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Rule.load_state_dict`."""
        self._pipeline.load_state_dict(state)

    def _modules(self, model: Layered) -> Bank:
        if self._bank is None or self._bank[0] is not model:
            if self._bank is not None:
                self._pipeline = Pipeline()  # the stored states are another model's
            self._bank = (model, Bank(list(model.layers), self.batched))
        else:
            self._bank[1].look()
        return self._bank[1]

    def step(self, model: Layered, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        bank = self._modules(model)
        start = model.embed(batch.x)
        z, total, metrics = self._tree(model, bank, start, batch)
        total = self.tree * total
        loss, per_node, calls = math.nan, None, 0
        if self.sweeps != 0:
            states, batches, calls = self._path(model, bank, start, z, batch)
            each = [objective(model.objective, model.head(s), b)[0] for s, b in zip(states, batches, strict=True)]
            total = total + torch.stack(each).sum()
            per_node = torch.stack(each).detach().cpu()
            loss = float(per_node[-1])
        total.backward()
        whole = float(total.detach())
        metrics["objective"] = whole
        metrics["modules"] = "at once" if bank.alike else "one by one"
        metrics["depth"] = float(Tree(model.depth, 1).levels + calls)  # batched calls one after the other
        return StepResult(loss if calls else whole, metrics, per_node)

    def _tree(
        self, model: Layered, bank: Bank, start: Tensor, batch: Batch
    ) -> tuple[dict[int, Tensor], Tensor, dict[str, float | str]]:
        """Visit the tree: states of all nodes (constants), the sum of their losses, means of what was measured."""
        tree, z, total = Tree(model.depth, 1), {0: start}, start.new_zeros(())
        measured: dict[str, list[float]] = {}
        for nodes in depth_tree.level_nodes(model.depth):
            parents = [tree.parents(n) for n in nodes]
            left = torch.stack([z[i] for i, _ in parents])  # (m, B, ...); only z_0 has a graph, to the embedding
            forward = bank(nodes, left)
            visit = self._visit(model, bank, Height(nodes, parents, forward, z), batch)
            for loss in visit.losses:
                total = total + loss
            for n, one, state in zip(nodes, forward, visit.states, strict=True):
                total = total + objective(model.objective, model.head(one), batch)[0]
                z[n] = state
            for name, values in visit.measured.items():
                measured.setdefault(name, []).extend(values)
        return z, total, {name: sum(values) / len(values) for name, values in measured.items()}

    def _visit(self, model: Layered, bank: Bank, height: Height, batch: Batch) -> Visit:
        """Choose the states of a height: here the forward messages, without a loss of their own."""
        return Visit(height.forward.detach(), [], {})

    def _path(
        self, model: Layered, bank: Bank, start: Tensor, z: dict[int, Tensor], batch: Batch
    ) -> tuple[list[Tensor], list[Batch], int]:
        """Visit the full path.

        Returns:
            States of nodes 1..N-1, each with gradient to its own module; the batches they belong to; calls made.
        """
        pipelined = self.sweeps == "pipelined"
        if pipelined and self._pipeline.continues(start):
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
            self._pipeline.keep(list(states), batches)
        return list(states), batches, sweeps

    def _pipelined(self, bank: Bank, start: Tensor, batch: Batch) -> tuple[list[Tensor], list[Batch], int]:
        """Visit the full path with every node on a batch of its own; as `_path`."""
        inputs = self._pipeline.inputs(start, batch)
        states = [start] * len(inputs)
        groups = by_shape(inputs)  # one, but for the updates after a batch of another size
        for group in groups:
            out = bank([i + 1 for i in group], torch.stack([inputs[i][0] for i in group]))
            for i, state in zip(group, out, strict=True):
                states[i] = state
        batches = [b for _, b in inputs]
        self._pipeline.keep(states, batches)
        return states, batches, len(groups)
