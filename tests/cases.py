"""Cells and batches that many tests share."""

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.models import SequenceModel

NAMED = ["gru", "lstm", "elman", "mingru"]


class OwnCell(nn.Module):
    """A user's cell, without a carry of its own: a leaky integrator with a gate."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gate = nn.Linear(input_size + hidden_size, hidden_size)
        self.write = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        xh = torch.cat([x, h], 1)
        keep = torch.sigmoid(self.gate(xh) + 1)
        return keep * h + (1 - keep) * torch.tanh(self.write(xh))


class OwnCellWithCarry(OwnCell):
    """The same, saying its own carry."""

    def carry(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(torch.cat([x, h], 1)) + 1)


ALL = [*NAMED, "user", "user with carry"]


def model(
    cell: str, *, hidden: int = 6, layers: int = 1, task: str = "step", symbols: int = 7, seed: int = 0
) -> SequenceModel:
    """A small float64 model with any cell."""
    options = dict(hidden=hidden, layers=layers, task=task, timescale=40.0, seed=seed)
    if cell.startswith("user"):
        kind = OwnCell if cell == "user" else OwnCellWithCarry
        torch.manual_seed(seed)
        stack = nn.ModuleList([kind(hidden, hidden) for _ in range(layers)])
        options = dict(cell=stack, task=task, seed=seed, embedding=hidden)
    else:
        options["cell"] = cell
    return SequenceModel(symbols, symbols, **options).double()


def batch(
    b: int, t: int, *, symbols: int = 7, seed: int = 0, lengths: list[int] | None = None, task: str = "step"
) -> Batch:
    """Random symbols and targets; zeros after each length."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, symbols, (b, t), generator=g)
    valid = torch.tensor(lengths) if lengths is not None else torch.full((b,), t)
    mask = torch.arange(t)[None] < valid[:, None]
    if task == "sequence":
        return Batch(x * mask, valid, torch.randint(0, symbols, (b,), generator=g), None)
    return Batch(x * mask, valid, torch.randint(0, symbols, (b, t), generator=g), mask)


def gradient(rule, net, data, progress: float = 0.5) -> Tensor:
    """The rule's gradient as one vector; half way through a run, where messages are neither whole nor cut."""
    net.zero_grad()
    rule.step(net, data, progress=progress)
    return torch.cat([p.grad.flatten() for p in net.parameters()])
