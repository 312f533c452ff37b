"""Gradient credit, for comparison only: |dL/du| by backpropagation."""

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.question import Question
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.tree import Tree


def step_gradient(model: SequenceModel | Layered, question: Question, tree: Tree) -> list[Tensor]:
    """Sums over every node of |dL/du_t| (layered: |dL/dz_n| of the module's input), `(B, nodes)` a height.

    Args:
        model: float64.
        question: the outcome.
        tree: over the steps (modules).
    """
    leaves: list[Tensor]
    if isinstance(model, SequenceModel):
        u = model.embed(question.x).detach().requires_grad_()
        h, leaves = u, [u]
        for cell in model.cells:
            h = cell.sequence(h, cell.initial(len(h), h))[0]
        out = model.readout(h[:, -1])
    else:
        z, leaves = model.embed(question.x).detach().requires_grad_(), []
        for module in model.layers:
            leaves.append(z)
            z = module(z)
        out = model.head(z)
        out = out[:, -1] if out.ndim > 2 else out
    total = losses.each(model.objective, out, question.y).sum()
    gradients = torch.autograd.grad(total, leaves)
    if isinstance(model, SequenceModel):
        size = gradients[0].norm(dim=-1)  # (B, T)
    else:
        size = torch.stack([g.flatten(1).norm(dim=1) for g in gradients], 1)
    nodes = []
    for height in range(tree.levels + 1):
        spans = [tree.span(height, k) for k in range(tree.nodes(height))]
        nodes.append(torch.stack([size[:, i:j].sum(1) for i, j in spans], 1))
    return nodes
