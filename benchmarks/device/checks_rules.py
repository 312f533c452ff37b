"""Whole training steps against BPTT in float64 on the CPU: rule bptt on this device, and rule hbll in all its ways."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

import hbll_seq as hs
from benchmarks.device import dry, sides
from benchmarks.device.compare import cosine, verdict
from benchmarks.device.jobs import Clock, Job
from benchmarks.rivals import V
from hbll_seq.data.batch import Batch
from hbll_seq.models import SequenceModel

CELLS = ("gru", "lstm", "elman", "mingru", "own")
DRY_CELLS = ("gru", "own")
EXECUTIONS = ("parallel", "exact-forward", "sequential", "auto")
# B sequences, T steps, d units, layers
SHAPES = [(3, 256, 64, 1), (2, 512, 128, 2)]
DRY_SHAPES = [(2, 24, 6, 1)]
BLOCKS = 8  # no more than sweeps: the boundaries are exact, and so is the gradient
LIMITS = {"hbll bf16": 5e-2, "hbll defaults": 5e-2}  # the others 1e-4
WHOLE = {"check_every": 0, "discount": 1.0, "tolerance": 1e-9, "feedback_tolerance": 1e-9}


def ways(steps: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Rules and options by name, those that this version of the package has."""
    blocks = WHOLE | {"block_size": -(-steps // BLOCKS)}
    coarse = blocks | {"tolerance": 1e-4, "feedback_tolerance": 1e-4}  # as fine as bfloat16 allows
    found: dict[str, tuple[str, dict[str, Any]]] = {"bptt": ("bptt", {"kernels": "torch"})}
    if sides.has("bptt", kernels="auto"):
        found["bptt by our kernels"] = "bptt", {"kernels": "auto"}
    for one in EXECUTIONS:
        if sides.has("hbll", execution=one):
            found[f"hbll {one}"] = "hbll", blocks | {"execution": one}
    found["hbll in groups"] = "hbll", blocks | {"group": 3}
    found["hbll graphs"] = "hbll", blocks | {"capture": True, "execution": "parallel"}
    found["hbll bf16"] = "hbll", coarse | {"precision": "bf16", "execution": "parallel"}
    found["hbll defaults"] = "hbll", {"check_every": 0, "discount": 1.0}
    return found


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """All checks of rules."""
    found = []
    for b, t, d, layers in DRY_SHAPES if is_dry else SHAPES:
        for cell in DRY_CELLS if is_dry else CELLS:
            for name in ways(t):
                run = partial(check_step, device, is_dry, cell, (b, t, d, layers), name)
                found.append(Job(f"{name} {cell} {b} x {t} x {d}, {layers} layers", run))
    fits = DRY_CELLS[:1] if is_dry else ("gru", "lstm")
    return found + [Job(f"fit {cell}", partial(check_fit, device, is_dry, cell)) for cell in fits]


def batch(b: int, t: int) -> Batch:
    """Random symbols and targets of sequences of unequal lengths."""
    g = torch.Generator().manual_seed(t)
    lengths = torch.tensor([max(1, t - i * t // 3) for i in range(b)])
    mask = torch.arange(t)[None] < lengths[:, None]
    x, y = (torch.randint(0, V, (b, t), generator=g) for _ in range(2))
    return Batch(x * mask, lengths, y, mask)


def gradient(rule: Any, net: SequenceModel, data: Batch) -> tuple[Tensor, dict[str, Any]]:
    """The gradient that a rule leaves, as one vector, and its metrics."""
    net.zero_grad()
    rule.setup(net, torch.Generator().manual_seed(0))
    metrics = rule.step(net, data).metrics
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]), metrics


def check_step(
    device: torch.device, is_dry: bool, cell: str, shape: tuple[int, int, int, int], name: str, clock: Clock
) -> dict[str, Any]:
    """The gradient of one step."""
    b, t, d, layers = shape
    graphs = name == "hbll graphs"
    dtype = torch.float64 if is_dry and graphs else torch.float32
    fields: dict[str, Any] = {
        "group": name, "cell": cell, "dtype": "bf16 products" if "bf16" in name else str(dtype)[6:],
        "shape": {"B": b, "T": t, "d": d, "layers": layers},
    }  # fmt: skip
    if graphs and (why := dry.no_graphs(device)):
        return {"skipped": why, **fields}
    data, net = batch(b, t), sides.model(cell, d, layers)
    exact, _ = gradient(sides.make_rule(*ways(t)["bptt"]), copy.deepcopy(net).double(), data)
    with dry.recording(device):
        rule = sides.make_rule(*ways(t)[name])
        got, metrics = gradient(rule, net.to(device, dtype), data.to(device))
    limit = LIMITS.get(name, 1e-4)
    return verdict([("gradient", got, exact)], limit, cosine=cosine(got, exact), metrics=metrics, **fields)


def check_fit(device: torch.device, is_dry: bool, cell: str, clock: Clock) -> dict[str, Any]:
    """A short run on this device ends where the same run on the CPU ends."""
    steps, d, window = (4, 8, 32) if is_dry else (40, 64, 256)
    text = torch.arange(4000) * 7 % 31 % 11
    losses = []
    for where in ("cpu", str(device)):
        net = hs.models.CharLM(11, hidden=d, cell=cell)
        options: dict[str, Any] = dict(steps=steps, batch_size=4, window=window, lr=1e-2, progress=False, device=where)
        losses.append(torch.tensor(hs.fit(net, text, rule="hbll", **options).history["loss"]))
    fields: dict[str, Any] = {
        "group": "fit",
        "cell": cell,
        "shape": {"B": 4, "T": window, "d": d, "steps": steps},
        "dtype": "float32",
    }
    return verdict(
        [("losses", losses[1], losses[0])], 2e-2, first=float(losses[1][0]), last=float(losses[1][-1]), **fields
    )
