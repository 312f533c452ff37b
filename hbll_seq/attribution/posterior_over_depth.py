"""Posterior credit over depth: messages of Algorithm 1 of the paper, at every node of the tree over the modules.

Node n between its parents i < n < j has the forward mean a_n = f_n(z_i). The right parent's evidence, or the target's
where j is the head, is a cost C(z). The posterior mean z_n minimises |z - a_n|^2 / (2 s^2) + C(z) with s = 1
(`hbll_seq.rules.published.posterior`), and

    KL(posterior || forward) = |z_n - a_n|^2 / (2 s^2)      nats.

There are N - 1 modules; `credit` counts them from 0 as blocks of its tree. Node n over 0..N is the midpoint of exactly
one node there, and its KL is the credit of module n, block n - 1. A node of more modules has the sum over them.
"""

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.question import Question
from hbll_seq.attribution.result import node_sums
from hbll_seq.models import depth_tree
from hbll_seq.models.layered import Layered
from hbll_seq.rules.published.posterior import gaussian_posterior
from hbll_seq.tree import Tree


def depth_kl(model: Layered, question: Question, tree: Tree) -> list[Tensor]:
    """Return KL(posterior || forward) in nats, float64, `(B, nodes)` a height.

    Args:
        model: float64 and evaluation mode.
        question: the outcome.
        tree: over the modules.
    """
    total, whole = model.depth, Tree(model.depth, 1)
    with torch.no_grad():
        z: dict[int, Tensor] = {0: model.embed(question.x)}
    kl: dict[int, Tensor] = {}
    for level in depth_tree.level_nodes(total):
        for n in level:
            left, right = whole.parents(n)
            with torch.no_grad():
                a = model.layers[n - 1](z[left])

            def cost(states: Tensor, right: int = right) -> Tensor:
                """Return how badly states `(1, B, ...)` explain the right parent, `(1, B)` nats."""
                if right == total:
                    out = model.head(states[0])
                    out = out[:, -1] if out.ndim > 2 else out
                    return losses.each(model.objective, out, question.y).unsqueeze(0)
                away: Tensor = model.layers[right - 1](states[0]) - z[right]
                return away.flatten(1).square().sum(1).unsqueeze(0) / 2

            posterior = gaussian_posterior(a.unsqueeze(0), cost)[0]
            kl[n] = (posterior - a).flatten(1).square().sum(1) / 2
            z[n] = posterior
    return node_sums(torch.stack([kl[n] for n in range(1, total)], 1), tree)
