"""Rolls of all cells against autograd in float64 on the CPU: by cuDNN, step by step, as CUDA graphs, with bfloat16 products."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.device import dry, sides
from benchmarks.device.checks_kernels import FLOOR
from benchmarks.device.compare import Pair, verdict
from benchmarks.device.jobs import Clock, Job
from hbll_seq.cells import AutogradRoll, Captures, Cell, captured, in_precision

CELLS = ("gru", "lstm", "elman", "mingru", "own")
# K steps, N rows, d units
SHAPES = [(1, 1, 16), (16, 33, 64), (64, 64, 256), (16, 256, 512), (8, 16, 1024)]
DRY_SHAPES = [(1, 1, 4), (5, 6, 8)]
WIDE = (8, 16, 1024)  # a GRU that is rolled step by step on a GPU


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """All checks of rolls."""
    shapes = DRY_SHAPES if is_dry else SHAPES
    found = []
    for cell in CELLS:
        found += [
            Job(f"roll {cell} {k} x {n} x {d}", partial(check_roll, device, cell, (k, n, d))) for k, n, d in shapes
        ]
    for cell in CELLS:
        k, n, d = shapes[1]
        found.append(Job(f"bf16 roll {cell} {k} x {n} x {d}", partial(check_bf16, device, cell, (k, n, d))))
    for cell in ("mingru", "own", "gru"):
        k, n, d = shapes[1] if is_dry or cell != "gru" else WIDE
        found.append(Job(f"graph {cell} {k} x {n} x {d}", partial(check_graph, device, is_dry, cell, (k, n, d))))
    return found


def _given(cell: Cell, k: int, n: int, d: int, seed: int = 0) -> list[Tensor]:
    """Input, start, gradients on outputs and end, as float64 numbers that float32 holds."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((k, n, d), (n, cell.state_size), (k, n, d), (n, cell.state_size))
    x, start, dout, dend = (torch.randn(s, generator=g) for s in shapes)
    return [p.double() for p in (x, start.tanh(), dout, dend)]


def _everything(roll: Any, dout: Tensor, dend: Tensor) -> dict[str, Tensor]:
    """All that a roll gives, by name; its backward is asked twice, as corrections do."""
    roll.backward_state(dout, None)
    found = {"outputs": roll.outputs, "end": roll.end, "carry": roll.carry, "start": roll.backward_state(dout, dend)}
    if roll.link is not None:
        found["link"] = roll.link
    dx, parameters = roll.gradients()
    found |= {"input": dx} | {f"parameter {i}": p for i, p in enumerate(parameters)}
    return {name: p.detach().clone() for name, p in found.items()}


def _same(got: dict[str, Tensor], exact: dict[str, Tensor]) -> list[Pair]:
    return [(name, got[name], exact[name]) for name in exact]


def check_roll(device: torch.device, cell: str, shape: tuple[int, int, int], clock: Clock) -> dict[str, Any]:
    """A roll as the rule makes it on this device, float32."""
    k, n, d = shape
    net = sides.model(cell, d)
    exact_cell = copy.deepcopy(net).double().cells[0]
    here = net.to(device).cells[0]
    x, start, dout, dend = _given(exact_cell, k, n, d)
    exact = _everything(AutogradRoll(exact_cell, x, start, keep=True), dout, dend)
    there = [p.to(device, torch.float32) for p in (x, start, dout, dend)]
    roll = here.roll(*there[:2], keep=True)
    pairs = _same(_everything(roll, *there[2:]), exact)
    ends = here.roll(*there[:2], keep=False, projected=here.projected(there[0]))
    pairs += [("end alone", ends.end, exact["end"]), ("carry alone", ends.carry, exact["carry"])]
    fields = {
        "group": f"roll of {cell}",
        "kind": type(roll).__name__,
        "shape": {"K": k, "N": n, "d": d},
        "dtype": "float32",
    }
    return verdict(pairs, 1e-4, floor=FLOOR, **fields)


def check_bf16(device: torch.device, cell: str, shape: tuple[int, int, int], clock: Clock) -> dict[str, Any]:
    """`precision="bf16"`: near the exact roll, and float32 outside the products."""
    k, n, d = shape
    net = sides.model(cell, d)
    exact_cell = copy.deepcopy(net).double().cells[0]
    here = in_precision(net.to(device).cells[0], "bf16")
    x, start, dout, dend = _given(exact_cell, k, n, d)
    exact = _everything(AutogradRoll(exact_cell, x, start, keep=True), dout, dend)
    x, start, dout, dend = (p.to(device, torch.float32) for p in (x, start, dout, dend))
    found = _everything(here.roll(x, start, keep=True), dout, dend)
    line = verdict(
        _same(found, exact),
        3e-2,
        floor=FLOOR,
        group="bf16 roll",
        cell=cell,
        shape={"K": k, "N": n, "d": d},
        dtype="bf16 products",
    )
    kept = all(p.dtype == torch.float32 for p in found.values())
    return line | {"float32_outside": kept, "passed": line["passed"] and kept}


def check_graph(
    device: torch.device, is_dry: bool, cell: str, shape: tuple[int, int, int], clock: Clock
) -> dict[str, Any]:
    """`capture=True`: three replays, with new inputs and new weights each, are rolls."""
    k, n, d = shape
    dtype = torch.float64 if is_dry else torch.float32  # on a CPU only float64 is rolled step by step
    fields = {"group": "CUDA graph", "cell": cell, "shape": {"K": k, "N": n, "d": d}, "dtype": str(dtype)[6:]}
    if why := dry.no_graphs(device):
        return {"skipped": why, **fields}
    layer = sides.model(cell, d).to(device, dtype).cells[0]
    pairs: list[Pair] = []
    with dry.recording(device):
        captures = Captures()
        recorded = captured(layer, captures)
        for turn in range(3):
            x, start, dout, dend = (p.to(device, dtype) for p in _given(layer, k, n, d, turn))
            exact = _everything(AutogradRoll(layer, x, start, keep=True), dout, dend)
            found = _everything(recorded.roll(x, start, keep=True), dout, dend)
            pairs += [(f"{name}, replay {turn}", p, q) for name, p, q in _same(found, exact)]
            with torch.no_grad():
                for p in layer.parameters():
                    p.add_(0.1 * torch.randn_like(p))
        line = verdict(pairs, 1e-12 if is_dry else 1e-4, floor=FLOOR, recordings=len(captures), **fields)
    return line | {"passed": line["passed"] and len(captures) > 0}
