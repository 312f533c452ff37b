"""Posterior credit over depth: the messages of Algorithm 1, at every node of the tree over the modules.

Node n between its parents i < n < j has the forward mean a_n = f_n(z_i), and from the right the evidence of z_j, at the
last node the target's. The posterior mean z_n minimises |z - a_n|^2 / (2 s^2) + C(z) (`hbll_seq.rules.depth.posterior`,
s = 1), and

    KL(posterior || forward) = |z_n - a_n|^2 / (2 s^2)      nats.

The tree of `credit` over the N - 1 modules has module n as block n - 1. Node n is the midpoint of one node of
that height over 0..N; its value stands at block n - 1, and a node of more modules has the sum over them.
"""

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.question import Question
from hbll_seq.models import depth_tree
from hbll_seq.models.layered import Layered
from hbll_seq.rules.depth.posterior import gaussian_posterior
from hbll_seq.tree import Tree


def depth_kl(model: Layered, question: Question) -> list[Tensor]:
    """KL in nats, `(B, nodes)` a height over the modules, in float64.

    Args:
        model: float64 and evaluation mode.
        question: the outcome.
    """
    total = model.depth
    with torch.no_grad():
        z: dict[int, Tensor] = {0: model.embed(question.x)}
    leaves: dict[int, Tensor] = {}
    for level in depth_tree.level_nodes(total):
        for n in level:
            half = n & -n
            left, right = n - half, min(n + half, total)
            with torch.no_grad():
                a = model.layers[n - 1](z[left])

            def cost(states: Tensor, right: int = right) -> Tensor:
                """States `(1, B, ...)`: how badly they explain the right parent, `(1, B)` nats."""
                if right == total:
                    out = model.head(states[0])
                    out = out[:, -1] if out.ndim > 2 else out
                    return losses.each(model.objective, out, question.y).unsqueeze(0)
                away: Tensor = model.layers[right - 1](states[0]) - z[right]
                return away.flatten(1).square().sum(1).unsqueeze(0) / 2

            posterior = gaussian_posterior(a.unsqueeze(0), cost)[0]
            leaves[n] = (posterior - a).flatten(1).square().sum(1) / 2
            z[n] = posterior
    values = torch.stack([leaves[n] for n in range(1, total)], 1)  # (B, N-1)
    tree = Tree(total - 1, 1)
    spans = [[tree.span(h, k) for k in range(tree.nodes(h))] for h in range(tree.levels + 1)]
    return [torch.stack([values[:, i:j].sum(1) for i, j in row], 1) for row in spans]
