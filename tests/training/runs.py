"""What the tests of training share: a text, short runs, small models."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs

TEXT = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))
RULES = ["hbll", "bptt", "tbptt", "dsf"]
QUICK = dict(steps=6, batch_size=3, window=40, progress=False)


def lm(**options):
    return hs.models.CharLM(5, **{"hidden": 8, "timescale": 20.0} | options)


def classifier(seed=0):
    return hs.models.SequenceModel(2, 3, input_kind="features", task="sequence", hidden=4, seed=seed)


def loader(**options):
    g = torch.Generator().manual_seed(3)
    data = TensorDataset(torch.randn(8, 6, 2, generator=g), torch.randint(0, 3, (8,), generator=g))
    return DataLoader(data, **{"batch_size": 3, "shuffle": True} | options)


class Dropping(torch.nn.Module):
    """A user's cell that draws random numbers in training."""

    input_size = hidden_size = 8

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = torch.nn.Linear(16, 8), torch.nn.Dropout(0.5)

    def forward(self, x, h):
        return torch.tanh(self.linear(torch.cat([self.dropout(x), h], -1)))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])
