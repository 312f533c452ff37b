"""Sides that are not rules of the package: a recurrent module between embedding and read-out, differentiated by autograd.

* `nn bf16`: PyTorch's GRU or LSTM with weights, states and outputs in bfloat16, less exact than bfloat16 products.
* `minGRU scan`: linear in its state, so one scan is exact; by accelerated-scan where it is installed, else by ours.
* `ParaGRU`: pararnn-torch's diagonal GRU, three Newton iterations, where it is installed.
* `compiled loop`: a GRU's steps by `torch.compile`, `CHUNK` of them a call.
"""

import importlib
import importlib.util
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.rivals import V, _MinGRU, _ParaGRU
from hbll_seq.data.batch import Batch

NAMES = ("nn bf16", "minGRU scan", "ParaGRU", "compiled loop")
CHUNK = 16  # steps compiled together; compiling takes seconds a step
COMPILING = 60.0  # seconds after which it is given up


def available(name: str) -> bool:
    """Whether a side can be had here."""
    return name != "ParaGRU" or importlib.util.find_spec("pararnn") is not None


def make(name: str, batch: Batch, d: int, cell: str) -> Callable[[], dict[str, Any]]:
    """A closure that makes one training step with SGD; its tensors are where the batch is."""
    scan = accelerated(batch) if name == "minGRU scan" else None
    kinds: dict[str, Callable[[], nn.Module]] = {
        "nn bf16": lambda: LowPrecision(d, cell),
        "minGRU scan": lambda: _MinGRU(d, cell) if scan is None else AcceleratedMinGRU(d, scan),
        "ParaGRU": lambda: _ParaGRU(d, cell),
        "compiled loop": lambda: CompiledLoop(d, batch.x.device.type),
    }
    recurrent = kinds[name]()
    device = batch.x.device
    embed, head, recurrent = nn.Embedding(V, d).to(device), nn.Linear(d, V).to(device), recurrent.to(device)
    optimizer = torch.optim.SGD([*embed.parameters(), *recurrent.parameters(), *head.parameters()], lr=1e-6)
    extra = {"scan": "ours" if scan is None else "accelerated-scan"} if name == "minGRU scan" else {}

    limits = iter([COMPILING] if name == "compiled loop" else [])  # of the first step, which compiles both ways

    def one() -> dict[str, Any]:
        optimizer.zero_grad()
        with limit(next(limits, 0.0)):
            out = head(recurrent(embed(batch.x)))
            functional.cross_entropy(out.flatten(0, 1), batch.y.flatten()).backward()
        optimizer.step()
        return extra

    return one


class LowPrecision(nn.Module):
    """PyTorch's own layer in bfloat16."""

    def __init__(self, d: int, cell: str) -> None:
        super().__init__()
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN}[cell](d, d, batch_first=True).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, d)` float32 -> the same."""
        out: Tensor = self.rnn(x.bfloat16())[0]
        return out.float()


Scan = Callable[[Tensor, Tensor], Tensor]


def accelerated(batch: Batch) -> Scan | None:
    """accelerated-scan's function where it is installed and runs: on a GPU, lengths that are powers of two to 65,536."""
    steps = batch.x.shape[1]
    if batch.x.device.type != "cuda" or steps & (steps - 1) or not 32 <= steps <= 65536:
        return None
    for kind in ("warp", "scalar", "triton"):  # the first is CUDA code, compiled when it is imported: needs nvcc
        try:
            with limit(COMPILING):
                scan: Scan = importlib.import_module(f"accelerated_scan.{kind}").scan
        except Exception:  # not installed, no such module in this version, or it did not compile
            continue
        return scan
    return None


class AcceleratedMinGRU(nn.Module):
    """minGRU by accelerated-scan."""

    def __init__(self, d: int, scan: Scan) -> None:
        super().__init__()
        self.gates, self.scan = nn.Linear(d, 2 * d), scan

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, d)` -> `(B, T, d)`."""
        gate, candidate = self.gates(x).transpose(1, 2).chunk(2, 1)  # (B, d, T)
        z = torch.sigmoid(gate)
        return self.scan((1 - z).contiguous(), (z * candidate).contiguous()).transpose(1, 2)


class CompiledLoop(nn.Module):
    """A GRU by a compiled function of `CHUNK` steps."""

    def __init__(self, d: int, device: str) -> None:
        super().__init__()
        self.rnn = nn.GRU(d, d, batch_first=True)
        # on a CPU only a dry run comes here: trace, do not compile
        self._chunk = torch.compile(_steps, dynamic=False, backend="inductor" if device == "cuda" else "eager")

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T, d)` -> `(B, T, d)`."""
        w_ih, w_hh, b_ih, b_hh = self.rnn.parameters()
        p = functional.linear(x, w_ih, b_ih)
        h, outputs = x.new_zeros(x.shape[0], x.shape[2]), []
        for piece in p.split(CHUNK, 1):
            out, h = self._chunk(piece, h, w_hh, b_hh)
            outputs.append(out)
        return torch.cat(outputs, 1)


def _steps(p: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """All steps of p `(B, CHUNK, 3d)` from h `(B, d)`."""
    outputs = []
    for now in p.unbind(1):
        pr, pz, pn = now.chunk(3, 1)
        hr, hz, hn = functional.linear(h, weight, bias).chunk(3, 1)
        z = torch.sigmoid(pz + hz)
        n = torch.tanh(pn + torch.sigmoid(pr + hr) * hn)
        h = n + z * (h - n)
        outputs.append(h)
    return torch.stack(outputs, 1), h


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Ends what is inside with a TimeoutError after so many seconds; 0 for no limit. In the main thread only."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not compiled after {seconds:.0f} s")

    if not seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
