"""The sides of `benchmarks.speed`: each makes a training step (forward, backward, update) of the same task.

Next-symbol prediction on V random symbols: embedding of width d, one recurrent layer of d units, linear read-out, SGD.
Every rival gets its best settings known to us:

* `bptt`: PyTorch's own module, whole sequence. `tbptt`: the same, cut every 128 steps.
* `bptt-checkpoint`: the same with activations of about sqrt(T) segments recomputed (`torch.utils.checkpoint`).
* `mingru-scan`: minGRU (linear in its state) by this package's compiled affine scan, forwards and backwards; a
  scan in torch operations is several times slower.
* `pararnn`: pararnn-torch's diagonal ParaGRU, its default Newton solver with three iterations; where it is installed.
* `hbll`, `hbll-sequential`, `hbll-memory`: this package, all blocks at once, in order, and in groups of 256 MB;
  `hbll-call`: one block that spans the sequence, a compiled call forward and one back.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hbll_seq import rules, step
from hbll_seq.batch import Batch
from hbll_seq.models import CharLM
from hbll_seq.scan import prefix_scan, reverse_scan

V = 64
NAMES = ("hbll", "hbll-sequential", "hbll-memory", "bptt", "tbptt", "bptt-checkpoint", "mingru-scan", "pararnn")
Step = Callable[[], dict[str, float]]  # one training step; metrics, if any


def data(b: int, t: int) -> Batch:
    """Random symbols; the next one is the target."""
    x = torch.randint(0, V, (b, t + 1), generator=torch.Generator().manual_seed(0))
    return Batch(x[:, :-1].contiguous(), torch.full((b,), t), x[:, 1:].contiguous(), None)


def available(name: str) -> bool:
    """Whether a side can be measured here."""
    return name != "pararnn" or importlib.util.find_spec("pararnn") is not None


def make(name: str, batch: Batch, d: int, cell: str) -> Step:
    """A closure that trains one step."""
    if name in ("mingru-scan", "pararnn", "bptt-checkpoint"):
        if name == "bptt-checkpoint" and cell == "mingru":
            raise ValueError("bptt-checkpoint: got minGRU, expected a cell that PyTorch has")
        recurrent = {"mingru-scan": _MinGRU, "pararnn": _ParaGRU, "bptt-checkpoint": _Checkpointed}[name]
        return _plain(recurrent(d, cell), batch, d)
    model = CharLM(V, hidden=d, cell=cell)
    base, _, how = name.partition("-")
    options: dict[str, Any] = {"hbll": {"check_every": 0}, "tbptt": {"block_size": 128}}.get(base, {})
    if how == "sequential":
        options["execution"] = how
    if how == "memory":
        options["memory"] = "256MB"
    if how == "measured":
        options["block_size"] = how
    if how == "call":  # one block that spans the sequence, a compiled call each way
        options |= {"execution": "sequential", "block_size": batch.x.shape[1]}
    if how.isdigit():  # `benchmarks.speed --blocks`
        options["block_size"] = int(how)
    rule = rules.make(base, **options)
    rule.setup(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    return lambda: step(model, batch, rule, optimizer).result.metrics


def _plain(recurrent: nn.Module, batch: Batch, d: int) -> Step:
    embed, head = nn.Embedding(V, d), nn.Linear(d, V)
    parameters = [*embed.parameters(), *recurrent.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-6)

    def one() -> dict[str, float]:
        optimizer.zero_grad()
        out = head(recurrent(embed(batch.x)))
        functional.cross_entropy(out.flatten(0, 1), batch.y.flatten()).backward()
        optimizer.step()
        return {}

    return one


class _Affine(torch.autograd.Function):
    """h_{t+1} = a_t h_t + b_t from zero, `(T, B, d)`, by the compiled scan both ways."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = prefix_scan(a, b, torch.zeros_like(b[0]))
        ctx.save_for_backward(a, h)
        return h[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        g = grads[0].contiguous()
        db = reverse_scan(a[1:], g[:-1], g[-1])
        return db * h[:-1], db


class _MinGRU(nn.Module):
    def __init__(self, d: int, cell: str) -> None:
        super().__init__()
        self.gates = nn.Linear(d, 2 * d)

    def forward(self, x: Tensor) -> Tensor:
        gate, candidate = self.gates(x.transpose(0, 1)).chunk(2, -1)
        z = torch.sigmoid(gate)
        h: Tensor = _Affine.apply((1 - z).contiguous(), (z * candidate).contiguous())
        return h.transpose(0, 1)


class _ParaGRU(nn.Module):
    def __init__(self, d: int, cell: str) -> None:
        super().__init__()
        import pararnn

        self.layer = pararnn.ParaRNN(pararnn.ParaGRU(d, d), config=pararnn.NewtonConfig(max_iters=3)).train()

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        h: Tensor = out[0] if isinstance(out, tuple) else out
        return h


class _Checkpointed(nn.Module):
    def __init__(self, d: int, cell: str) -> None:
        super().__init__()
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN}[cell](d, d, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = [], None
        for piece in x.split(max(1, math.isqrt(x.shape[1])), 1):
            # Reentrant: the other kind builds the graph of every step before it drops the tensors, and on a CPU
            # the nodes of that graph are most of the memory.
            out, state = checkpoint(self.rnn, piece, state, use_reentrant=True)
            outputs.append(out)
        return torch.cat(outputs, 1)
