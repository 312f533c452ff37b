"""Triton's kernels against the same formulas in float64 on the CPU: the scan over boundaries, and the GRU's roll."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.device import dry
from benchmarks.device.compare import Pair, verdict
from benchmarks.device.jobs import Clock, Job
from hbll_seq.kernels import scan

# n boundaries, columns
SCANS = [(1, 1), (31, 7), (32, 32), (33, 33), (100, 1000), (4096, 64), (1024, 8192), (65536, 32)]
DRY_SCANS = [(1, 1), (33, 35)]
# K steps, N rows, d units
ROLLS = [(1, 1, 1), (3, 5, 7), (16, 16, 64), (64, 33, 70), (32, 128, 128), (16, 1000, 128), (16, 64, 256), (16, 100, 512),
         (1024, 1, 64), (4096, 4, 128)]  # fmt: skip
FEW = [(16, 16, 64), (64, 33, 70), (16, 100, 512), (4096, 4, 128)]  # in other precisions: each is compiled anew
DRY_ROLLS = [(1, 1, 1), (3, 17, 7), (2, 5, 70)]
FLOOR = 1e-3  # see `compare.verdict`
LIMITS = {"ieee": 3e-5, "tf32": 1e-2, "bf16": 3e-2}  # of the relative error of a roll of few steps


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """All checks of kernels; the smallest first."""
    found = []
    for n, columns in DRY_SCANS if is_dry else SCANS:
        for dtype in (torch.float32, torch.float64):
            name = f"scan {n} x {columns} {str(dtype)[6:]}"
            found.append(Job(name, partial(check_scan, device, n, columns, dtype)))
    for precision in ("ieee", "bf16") if is_dry else LIMITS:
        for k, n, d in DRY_ROLLS if is_dry else ROLLS if precision == "ieee" else FEW:
            found.append(
                Job(f"triton roll {k} x {n} x {d} {precision}", partial(check_roll, device, k, n, d, precision))
            )
    return found


def check_scan(device: torch.device, n: int, columns: int, dtype: torch.dtype, clock: Clock) -> dict[str, Any]:
    """Both directions of a scan by Triton."""
    fields: dict[str, Any] = {"group": "scan", "shape": {"n": n, "columns": columns}, "dtype": str(dtype)[6:]}
    if why := dry.no_triton():
        return {"skipped": why, **fields}
    g = torch.Generator().manual_seed(n + columns)
    a = 1.2 * torch.rand(n, columns, generator=g, dtype=torch.float64) - 0.1
    b = torch.randn(n, columns, generator=g, dtype=torch.float64)
    h = torch.randn(columns, generator=g, dtype=torch.float64)
    a, b, h = (p.to(dtype).double() for p in (a.clamp(max=1.0), b, h))  # the reference reads what the kernel reads
    pairs: list[Pair] = []
    for name, one in (("prefix", scan.prefix_scan), ("reverse", scan.reverse_scan)):
        got = one(*(p.to(device, dtype) for p in (a, b, h)), backend="triton")
        pairs.append((name, got, one(a, b, h, backend="torch")))
    return verdict(pairs, 1e-5 if dtype == torch.float32 else 1e-13, **fields)


def check_roll(device: torch.device, k: int, n: int, d: int, precision: str, clock: Clock) -> dict[str, Any]:
    """Everything that a roll by Triton gives, with and without activations, from any of the two gradients."""
    fields: dict[str, Any] = {"group": "Triton GRU roll", "shape": {"K": k, "N": n, "d": d}, "dtype": precision}
    if why := dry.no_triton():
        return {"skipped": why, **fields}
    from hbll_seq.kernels.triton_gru import TritonGRURoll  # triton is not installed everywhere

    inputs, grads = _inputs(k, n, d)
    kind = partial(TritonGRURoll, *(p.to(device, torch.float32) for p in inputs), bf16=precision == "bf16")
    limit = LIMITS[precision] * (3 if k > 1000 else 1)
    with _products("high" if precision == "tf32" else "highest"):
        return verdict(_pairs(kind, inputs, grads, device), limit, floor=FLOOR, **fields)


def _inputs(k: int, n: int, d: int) -> tuple[list[Tensor], list[tuple[Tensor | None, Tensor | None]]]:
    """What a roll is made of, and gradients on outputs and end; float64 numbers that float32 holds exactly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(k + n + d)
        net = nn.GRU(d, d)
        gi, h, dout, dend = torch.randn(k, n, 3 * d), torch.randn(n, d).tanh(), torch.randn(k, n, d), torch.randn(n, d)
    inputs = [p.detach().double() for p in (gi, net.weight_hh_l0, net.bias_hh_l0, h)]
    return inputs, [(dout.double(), dend.double()), (None, dend.double()), (dout.double(), None)]


def _pairs(kind: Any, inputs: list[Tensor], grads: list[Any], device: torch.device) -> Iterator[Pair]:
    """One after the other: what a roll gives is good until it is asked for the next."""
    from hbll_seq.kernels.gru_reference import ReferenceGRURoll

    exact = ReferenceGRURoll(*inputs, keep=True)
    ends = kind(keep=False)
    yield "end alone", ends.end, exact.end
    yield "carry alone", ends.carry, exact.carry
    roll = kind(keep=True)
    yield "outputs", roll.outputs, exact.outputs
    yield "end", roll.end, exact.end
    yield "carry", roll.carry, exact.carry
    for dout, dend in grads:
        there = [None if p is None else p.to(device, torch.float32) for p in (dout, dend)]
        by = "+".join(name for name, p in (("outputs", dout), ("end", dend)) if p is not None)
        yield f"gradient on start by {by}", roll.backward_state(*there), exact.backward_state(dout, dend)
        names = ("inputs", "weights", "bias")
        for name, one, two in zip(names, roll.weight_grads(), exact.weight_grads(), strict=True):
            yield f"gradient on {name} by {by}", one, two


@contextmanager
def _products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
