"""Posterior credit over time: how far the outcome's feedback would move the state at every node's midpoint.

Let m be the state at a midpoint, sigma_j^2 the variance of unit j over the boundaries of the batch, and lambda the
feedback message at m. The forward message is N(m, sigma^2), the posterior is N(m - sigma^2 lambda, sigma^2)
(docs/method.md#the-probabilistic-reading), and

    KL(posterior || forward) = sum_j sigma_j^2 lambda_j^2 / 2      nats.

Every boundary between blocks is the midpoint of exactly one node of height >= 1; the midpoint of a block is half a
block after its start. The messages are the engine's on that finer grid, solved to a relative squared residual
of 1e-16. The layers of a stack count as one state.
"""

import math

import torch
from torch import Tensor

from hbll_seq.attribution.question import Question
from hbll_seq.data.batch import Batch
from hbll_seq.engine import Engine, Options
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.execute import train
from hbll_seq.tree import Tree

TOLERANCE = 1e-16


def time_kl(model: SequenceModel, question: Question, tree: Tree) -> list[Tensor]:
    """Return KL(posterior || forward) in nats, `(B, nodes)` a height; NaN where a midpoint lies after the sequence.

    Args:
        model: float64; its gradients are overwritten.
        question: the outcome.
        tree: over the steps up to the outcome.
    """
    half = tree.block // 2
    grid = math.gcd(tree.block, half)
    kl = boundary_kl(model, question, grid)  # (B, boundaries): boundary i stands before step (i + 1) grid
    nodes = []
    for height in range(tree.levels + 1):
        row = kl.new_full((kl.shape[0], tree.nodes(height)), math.nan)
        for k in range(tree.nodes(height)):
            first, _ = tree.span(height, k)
            middle = first + (half if height == 0 else tree.block << (height - 1))
            if first < middle < tree.steps:
                row[:, k] = kl[:, middle // grid - 1]
        nodes.append(row)
    return nodes


def boundary_kl(model: SequenceModel, question: Question, block: int) -> Tensor:
    """Return the KL at every boundary between blocks of `block` steps, `(B, n-1)`."""
    x, y = question.x, question.y
    b, t = x.shape[:2]
    mask = None
    if model.task != "sequence":
        mask = torch.zeros(b, t, dtype=torch.bool, device=x.device)
        mask[:, -1] = True
        whole = y.new_zeros(b, t, *y.shape[1:])
        whole[:, -1] = y
        y = whole
    block = min(block, t)
    engine = Engine(Options(block, pull=0.0, tolerance=TOLERANCE, feedback_tolerance=TOLERANCE, most=t, discount=1.0))
    train(model, Batch(x, torch.full((b,), t), y, mask), engine, block, 1.0, keep=True)
    total = x.new_zeros(b, -(-t // block) - 1, dtype=torch.float64)
    for record in engine.records:
        assert record.states is not None and record.feedback is not None
        message = record.feedback.messages[1:-1] * b  # of each sequence's own loss, not the batch mean
        ends = record.states.roll.end.flatten(0, 1)  # (n B, S)
        variance = ends.var(0) if len(ends) > 1 else torch.ones_like(ends[0])
        total += 0.5 * (variance * message.square()).sum(-1).T
    return total
