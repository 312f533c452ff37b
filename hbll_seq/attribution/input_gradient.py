"""Gradient credit, for comparison only: |dL/du| by backpropagation."""

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.question import Question
from hbll_seq.attribution.result import node_sums
from hbll_seq.models.base import Model
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.tree import Tree


def node_gradients(model: Model, question: Question, tree: Tree) -> list[Tensor]:
    """Sum |dL/du_t| over every node, u_t the embedded input (layered: |dL/dz_n|, z_n the module's input).

    Args:
        model: float64, a `SequenceModel` or a `Layered`.
        question: the outcome.
        tree: over the steps (modules).

    Returns:
        `(B, nodes)` a height.
    """
    size = _time_sizes(model, question) if isinstance(model, SequenceModel) else _depth_sizes(model, question)
    return node_sums(size, tree)


def _time_sizes(model: SequenceModel, question: Question) -> Tensor:
    u = model.embed(question.x).detach().requires_grad_()
    h = u
    for layer, cell in enumerate(model.cells):
        h = model.between(layer, h, cell.sequence(h, cell.initial(len(h), h))[0])
    loss = losses.each(model.objective, model.readout(h[:, -1]), question.y).sum()
    (gradient,) = torch.autograd.grad(loss, u)
    return gradient.norm(dim=-1)  # (B, T)


def _depth_sizes(model: Model, question: Question) -> Tensor:
    assert isinstance(model, Layered)
    z, inputs = model.embed(question.x).detach().requires_grad_(), []
    for module in model.layers:
        inputs.append(z)
        z = module(z)
    out = model.head(z)
    out = out[:, -1] if out.ndim > 2 else out
    gradients = torch.autograd.grad(losses.each(model.objective, out, question.y).sum(), inputs)
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients], 1)  # (B, N-1)
