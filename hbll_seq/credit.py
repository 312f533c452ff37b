"""Credit: which blocks, and which nodes of the tree, an outcome is owed to.

Computed from the messages the `hbll` rule passes, for any trained model, its weights untouched. The
outcome is the loss at one step (per-step tasks) or of the sequence's label. With h_i the state at
boundary i, lambda_i the feedback message there and sigma^2 the variance of each unit over the boundaries,

* **boundary**: KL(posterior || forward message) = sum_j sigma_j^2 lambda_ij^2 / 2 in nats: the posterior mean is
  h_i - sigma^2 lambda_i and both have variance sigma^2. How much the outcome would like to move
  the state there. Every boundary is the midpoint of exactly one node of the tree.
* **block**: lambda_{i+1} . (F_i(h_i) - G_i * h_i) in nats: what the outcome owes to what block i wrote, the
  state it ended in beyond what its carry G_i kept of the state it began with. Negative: the block helped.

Boundaries and messages are solved to a tight tolerance, so no approximation of training is in
the picture.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.hbll import HBLL
from hbll_seq.tree import auto_block


class Credit(NamedTuple):
    """Credit of the top recurrent layer.

    Attributes:
        boundary: `(B, n-1)` nats >= 0, boundary i between block i and block i+1 at step (i+1) * block_size.
        block: `(B, n)` nats, signed.
        block_size: steps a block.
        steps: length T.
        outcome: the step whose loss is explained.
    """

    boundary: Tensor
    block: Tensor
    block_size: int
    steps: int
    outcome: int

    @property
    def heights(self) -> Tensor:
        """`(n-1,)` int64: height of the node whose midpoint each boundary is; 0 joins two blocks."""
        index = torch.arange(1, self.boundary.shape[1] + 1)
        return torch.tensor([int(i & -i).bit_length() - 1 for i in index.tolist()], dtype=torch.int64)


def credit(
    model: SequenceModel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    outcome: int | None = None,
    block_size: int | str = "auto",
) -> Credit:
    """Credit for one outcome of each sequence.

    Args:
        model: any recurrent model of this package; its gradients and weights are left as they were.
        x: `(B, T)` symbols or `(B, T, D)` features.
        y: target of the outcome, `(B,)` (or `(B, C)` for regression). None for next-step models: the symbol
            after the outcome step.
        outcome: step whose loss is explained; None for the last that has a target. Ignored for one label per sequence.
        block_size: steps a block, or "auto".

    Raises:
        InputError: wrong shapes, an outcome outside the sequence, or a target that is missing.
    """
    if x.ndim < 2 or x.shape[1] < 2:
        raise InputError("x", f"shape {tuple(x.shape)}", "(B, T) or (B, T, D) with T >= 2")
    sequence = model.task == "sequence"
    if y is None and model.task != "next":
        raise InputError("y", "None", "a target for each sequence (only next-step models bring their own)")
    if sequence:
        outcome = x.shape[1] - 1
    else:
        last = x.shape[1] - (2 if y is None else 1)
        outcome = last if outcome is None else outcome
        if not 0 <= outcome <= last:
            raise InputError("outcome", outcome, f"a step in 0..{last}")
        if y is None:
            y = x[:, outcome + 1]
        x = x[:, : outcome + 1]
    assert y is not None
    b, t = x.shape[0], x.shape[1]
    block = block_size if isinstance(block_size, int) else auto_block(t, b)
    mask = None
    if not sequence:
        mask = torch.zeros(b, t, dtype=torch.bool, device=x.device)
        mask[:, -1] = True
        whole = y.new_zeros(b, t, *y.shape[1:])
        whole[:, -1] = y
        y = whole
    rule = HBLL(min(block, t), pull=0.0, tolerance=1e-8, feedback_tolerance=1e-8, most=t, check_every=0, discount=1.0)
    rule.keep_solutions = True
    saved = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    try:
        rule.step(model, Batch(x, torch.full((b,), t), y, mask))
    finally:
        for p, g in zip(model.parameters(), saved, strict=True):
            p.grad = g
    states, feedback = rule.records[-1].states, rule.records[-1].feedback
    assert states is not None and feedback is not None
    lam = feedback.messages * b  # of each sequence's own loss, not the batch mean
    ends = states.level.end.flatten(0, 1)  # (n*B, S)
    variance = ends.var(0) if len(ends) > 1 else torch.ones_like(ends[0])  # of each unit
    boundary = 0.5 * (variance * lam[1:-1].square()).sum(-1)  # (n-1, B)
    written = states.level.end.clone()
    m = states.carry.shape[-1]
    written[..., :m] -= states.level.carry * states.start[..., :m]
    owed = (lam[1:] * written).sum(-1)  # (n, B); the last block has no boundary after it
    return Credit(boundary.T.contiguous(), owed.T.contiguous(), min(block, t), t, outcome)
