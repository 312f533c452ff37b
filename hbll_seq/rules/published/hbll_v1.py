"""`hbll-v1`: the published rule for recurrent networks (arXiv:2606.21497), one loss a node of the tree over time.

Node n of height d stands between its parents i = n - 2^d and j = n + 2^d; the states of the parents are constants, and
`folds.py` computes them. With f_d the cell of that height,

    h_n = f_d(h_i, x_{i:n})      l_n = |f_d(h_n, x_{n:j}) - h_j|^2 / 2

Where j is the end of a sequence with one target, the prediction loss stands in place of the mismatch. With targets per
step every node also has the loss of its own step. A message comes from the left parent only, so states are causal; the
right parent is only a target. The deployed RNN rolls f_0 step by step. The tree alone would train f_0 on steps from
even times only. So K Jacobi sweeps h~_t = f_0(h~_{t-1}, x_t) start from the tree's states, at all times at once, and
the loss sum_t |h~(K)_t - h_t|^2 ties the two, with gradient through the last sweep. The paper does not write l_n out:
this is our reading.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.scalars import flag, integer, number
from hbll_seq.errors import InputError
from hbll_seq.losses import objective
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.published.folds import Folds
from hbll_seq.rules.published.tree_stream import TreeStream


@register
class HBLLv1(Rule[SequenceModel]):
    """Train a recurrent network by the published rule: a tree of states that fold blocks of input.

    Args:
        sweeps: K, Jacobi consistency sweeps; 0 for none.
        shared: True for one recurrent cell for all heights, with input maps of their own; False for one cell a height.
        mismatch: weight of the nodes' mismatch with their right parents.
        consistency: weight of the sweeps' loss.
        longest: steps of the longest sequence; None for the longest that `fit` finds in the data.

    Attributes:
        folds: the cells of greater heights, after `setup`; trained beside the model, not needed to deploy it.

    Raises:
        InputError: an option out of range; in `setup`, a model of another cell or of several layers.
    """

    name = "hbll-v1"

    def __init__(
        self, sweeps: int = 4, *, shared: bool = False, mismatch: float = 1.0, consistency: float = 1.0,
        longest: int | None = None,
    ) -> None:  # fmt: skip
        sweeps, shared = integer("sweeps", sweeps, least=0), flag("shared", shared)
        mismatch, consistency = number("mismatch", mismatch), number("consistency", consistency)
        longest = None if longest is None else integer("longest", longest, extra=", or None")
        self.sweeps, self.shared, self.longest = sweeps, shared, longest
        self.mismatch, self.consistency = float(mismatch), float(consistency)
        self.folds: Folds | None = None
        self._own: list[nn.Parameter] = []

    def expect(self, longest: int | None) -> None:
        """See `Rule.expect`."""
        self.longest = self.longest or longest

    def setup(self, model: SequenceModel, generator: torch.Generator) -> None:
        """Make the cells of greater heights; see `Rule.setup`."""
        if not isinstance(model, SequenceModel):
            raise InputError("rule", "'hbll-v1' for a module of another kind", "a SequenceModel, and its own objective")
        if self.longest is None:
            raise InputError("longest", "None, and data whose longest sequence is not known", "longest=steps")
        with SeededDraws(int(torch.randint(2**62, (), generator=generator))):
            self.folds = Folds(model, self.longest, self.shared)
        self._own = self.folds.own_parameters(model)

    def parameters(self) -> list[nn.Parameter]:
        """Parameters of the cells of greater heights; see `Rule.parameters`."""
        return self._own

    def _ready(self) -> Folds:
        if self.folds is None:
            raise InputError("rule", "hbll-v1 before setup(model, generator)", "a rule that fit has set up")
        return self.folds

    def step(self, model: SequenceModel, batch: Batch, progress: float = 1.0) -> StepResult:
        """See `Rule.step`."""
        folds, x = self._ready(), model.embed(batch.x)
        t = x.shape[1]
        if model.task == "sequence" and batch.lengths is not None and int(batch.lengths.min()) < t:
            raise InputError("lengths", f"{int(batch.lengths.min())}..{t}", "equal lengths for rule 'hbll-v1'")
        states, by_height = folds.states(model, x)
        out = model.read(folds.read(model, x, states), batch.lengths)
        loss, per_step = objective(model.objective, out, batch)
        total, gap = loss, x.new_zeros(())
        cell = model.cells[0]
        own = [x.new_zeros(x.shape[0], cell.hidden_size)] * t  # hidden output of the node at every time, with gradient
        for d, (nodes, h) in by_height.items():
            for n, one in zip(nodes, h, strict=True):
                own[n] = cell.output(one)
            inside = [k for k, n in enumerate(nodes) if n + (1 << d) < t]
            if inside and self.mismatch:
                ahead = folds.fold(model, d, x, h[inside], [nodes[k] for k in inside])
                target = states[[nodes[k] + (1 << d) for k in inside]]
                miss = (ahead - target).square().sum(-1).mean() / 2
                total, gap = total + self.mismatch * miss, gap + miss.detach()
            ends = [k for k, n in enumerate(nodes) if n + (1 << d) >= t]
            if ends and model.task == "sequence":
                last = folds.fold(model, d, x, h[ends], [nodes[k] for k in ends])
                for one in last:
                    total = total + objective(model.objective, model.readout(cell.output(one)), batch)[0]
        if model.task != "sequence" and t > 1:
            # the node after n steps has seen step n - 1 last, and predicts what that step predicts
            early = batch._replace(y=batch.y[:, : t - 1], mask=None if batch.mask is None else batch.mask[:, : t - 1])
            total = total + objective(model.objective, model.readout(torch.stack(own[1:], 1)), early)[0]
        drift = x.new_zeros(())
        if self.sweeps and t > 1:
            drift = self._consistency(model, x, states)
            total = total + self.consistency * drift
        total.backward()
        metrics = {
            "mismatch": float(gap), "drift": float(drift.detach()), "objective": float(total.detach()),
            "depth": float((t - 1).bit_length() + 1 + self.sweeps),
        }  # fmt: skip
        return StepResult(float(loss.detach()), metrics)

    def _consistency(self, model: SequenceModel, x: Tensor, states: Tensor) -> Tensor:
        """Return the squared distance of the K-times swept states to the tree's, a mean over time."""
        t, b, s = states.shape
        cell = model.cells[0]
        inputs = x[:, : t - 1].transpose(0, 1).reshape((t - 1) * b, -1)  # of steps that lead to h_1 .. h_{t-1}
        h = states
        for k in range(self.sweeps):
            last = k + 1 == self.sweeps
            with torch.set_grad_enabled(last):
                moved = cell.step(inputs if last else inputs.detach(), h[:-1].reshape((t - 1) * b, s)).view(t - 1, b, s)
                h = torch.cat([states[:1], moved])
        return (h[1:] - states[1:]).square().sum(-1).mean()

    @torch.no_grad()
    def readout(self, model: SequenceModel, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Predict by the tree read-out: log2 T folds and one step, where the deployed RNN takes T steps.

        Args:
            model: the trained model.
            x: `(B, T)` or `(B, T, D)` as for the model.
            lengths: `(B,)`, for one target a sequence.

        Returns:
            As the model's own: `(B, T, V)`, or `(B, V)` for one target a sequence.
        """
        embedded = model.embed(x)
        states, _ = self._ready().states(model, embedded)
        return model.read(self._ready().read(model, embedded, states), lengths)

    def stream(self, model: SequenceModel) -> TreeStream:
        """Return a `TreeStream`: the same predictions step by step, in O(log T) memory."""
        return TreeStream(model, self._ready())

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the cells of greater heights, but for those shared with the model."""
        return {f"fold.{i}": p.detach() for i, p in enumerate(self._own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them (after `setup`)."""
        with torch.no_grad():
            for i, p in enumerate(self._own):
                p.copy_(state[f"fold.{i}"])
