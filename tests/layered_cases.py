"""Layered networks and batches that many tests share."""

import torch

from hbll_seq.data.batch import Batch
from hbll_seq.models import GPT, MLP, ViT
from hbll_seq.rules.depth.bank import Bank

SYMBOLS = 7


def networks(layers=8):
    return {
        "mlp": MLP((1, 8, 8), 4, hidden=12, layers=layers),
        "bernoulli": MLP(64, 4, hidden=12, layers=layers, nodes="bernoulli"),
        "normed": MLP((1, 8, 8), 4, hidden=12, layers=layers, activation="gelu", residual=True, norm=True),
        "vit": ViT((1, 8, 8), 4, patch=4, hidden=12, heads=2, layers=layers),
        "gpt": GPT(SYMBOLS, context=10, hidden=12, heads=2, layers=layers),
    }


KINDS = list(networks())


def data(net, rows=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    dtype = next(net.parameters()).dtype
    if isinstance(net, GPT):
        x = torch.randint(0, SYMBOLS, (rows, 11), generator=g)
        return Batch(x[:, :-1], torch.full((rows,), 10), x[:, 1:].contiguous(), torch.ones(rows, 10, dtype=torch.bool))
    x = torch.randn(rows, *net.input_shape, generator=g, dtype=torch.float64).to(dtype)
    return Batch(x, torch.full((rows,), 1), torch.randint(0, 4, (rows,), generator=g), None)


def gradients(rule, net, batch):
    """Of every parameter, after one step of the rule; and what the rule reports."""
    net.zero_grad()
    result = rule.step(net, batch)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()], result


def noted(calls):
    """`Bank.__call__` that also appends the nodes of every call to `calls`."""
    run = Bank.__call__

    def call(self, nodes, x):
        calls.append(list(nodes))
        return run(self, nodes, x)

    return call
