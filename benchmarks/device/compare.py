"""How far a result is from one in float64, and what comes of that."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Pair = tuple[str, Tensor, Tensor]  # what it is, the result, the reference


def error(got: Tensor, exact: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over that of the reference, or of numbers as large as `floor`, in float64 on the CPU."""
    p, q = got.detach().double().cpu(), exact.detach().double().cpu()
    if p.shape != q.shape:
        raise ValueError(f"shape {tuple(p.shape)}, expected {tuple(q.shape)}")
    return float((p - q).norm() / q.norm().clamp_min(max(1e-30, floor * q.numel() ** 0.5)))


def cosine(got: Tensor, exact: Tensor) -> float:
    """Of two vectors, in float64 on the CPU."""
    p, q = got.detach().double().cpu().flatten(), exact.detach().double().cpu().flatten()
    return float(torch.dot(p, q) / (p.norm() * q.norm()).clamp_min(1e-30))


def verdict(pairs: Iterable[Pair], tolerance: float, *, floor: float = 0.0, **fields: Any) -> dict[str, Any]:
    """The fields of a check's line: the largest error of all pairs decides; what is not a number never passes.

    `floor` is for what fades over many steps until float32 knows no such number: carries, gradients on the start.
    """
    errors = {name: error(got, exact, floor) for name, got, exact in pairs}
    worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    passed = errors[worst] <= tolerance
    return {"error": errors[worst], "worst": worst, "tolerance": tolerance, "passed": passed, **fields}
