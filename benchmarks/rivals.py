"""The sides of `benchmarks.speed`: each makes a training step (forward, backward, update) of the same task.

Next-symbol prediction on V random symbols: embedding of width d, one recurrent layer of d units, linear read-out, SGD.
Every rival gets its best settings known to us:

* `nn`: PyTorch's own module under autograd, what a user has. `bptt`: the same algorithm by this package's compiled
  kernels, whole sequences in one call each way: the exact rival. `tbptt`: that, cut every 128 steps.
* `bptt-checkpoint`: PyTorch's module with activations of about sqrt(T) segments recomputed (`torch.utils.checkpoint`).
* `mingru-scan`: minGRU (linear in its state) by this package's compiled affine scan, forwards and backwards; a
  scan in torch operations is several times slower.
* `pararnn`: pararnn-torch's diagonal ParaGRU, its default Newton solver with three iterations; where it is installed.
* `hbll`: this package's defaults. `hbll-parallel`: all blocks at once by sweeps; `hbll-exact-forward`: boundaries in
  order, the rest at once; `hbll-sequential`: in order; `hbll-measured`; `hbll-memory`: a budget of 256 MB.
* `products`: no rival but the bound, see `benchmarks.bound`.
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
from hbll_seq.data.batch import Batch
from hbll_seq.kernels.scan import prefix_scan, reverse_scan
from hbll_seq.models import CharLM

V = 64
RULES: dict[str, tuple[str, dict[str, Any]]] = {  # of the sides that are rules of this package, and their options
    "nn": ("bptt", dict(kernels="torch")),
    "bptt": ("bptt", dict()),
    "tbptt": ("tbptt", dict(block_size=128)),
    "hbll": ("hbll", dict(check_every=0)),
    "hbll-parallel": ("hbll", dict(check_every=0, execution="parallel")),
    "hbll-exact-forward": ("hbll", dict(check_every=0, execution="exact-forward")),
    "hbll-sequential": ("hbll", dict(check_every=0, execution="sequential")),
    "hbll-measured": ("hbll", dict(check_every=0, execution="measured")),
    "hbll-memory": ("hbll", dict(check_every=0, memory="256MB")),
}
NAMES = (*RULES, "bptt-checkpoint", "mingru-scan", "pararnn", "products")
Step = Callable[[], dict[str, Any]]  # one training step; metrics, if any


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
    if name == "products":
        call = products(*batch.x.shape, d, {"gru": 3, "lstm": 4, "elman": 1, "mingru": 0}[cell])
        return lambda: call() or {}
    model = CharLM(V, hidden=d, cell=cell)
    if name in RULES:
        rule = rules.make(RULES[name][0], **RULES[name][1])
    else:  # "hbll-64": blocks of 64 steps at once, see `benchmarks.speed --blocks`
        rule = rules.make("hbll", check_every=0, execution="parallel", block_size=int(name.partition("-")[2]))
    rule.setup(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    return lambda: step(model, batch, rule, optimizer, progress=0.5).result.metrics  # half way through a run


def products(b: int, t: int, d: int, gates: int) -> Callable[[], None]:
    """All matrix products of a training step, once, each over all B*T steps: see `benchmarks.bound`."""
    m, wide = b * t, max(gates, 1) * d
    h, g, logits = torch.randn(m, d), torch.randn(m, wide), torch.randn(m, V)
    weight, readout = torch.randn(d, wide), torch.randn(d, V)
    out = [torch.empty(m, wide), torch.empty(m, d), torch.empty(wide, d), torch.empty(m, V)]
    read = torch.empty(V, d)

    def one() -> None:
        if gates:
            torch.mm(h, weight, out=out[0])
            torch.mm(g, weight.t(), out=out[1])
            torch.mm(g.t(), h, out=out[2])
        torch.mm(h, readout, out=out[3])
        torch.mm(logits, readout.t(), out=out[1])
        torch.mm(logits.t(), h, out=read)

    return one


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
