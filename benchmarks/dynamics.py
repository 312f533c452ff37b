"""Is hbll's gradient the exact one where dynamics do not forget, or are chaotic? And does it say so where it is not?

    python -m benchmarks.dynamics [--quick] [--models parity s5 ...] [--steps 512 4096] [--batch 1 8]
        [--blocks 4 8 16 64 256] [--seeds 0] [--execution parallel] [--time]

For every model of the family (`benchmarks/dynamics_models.py`), every length, batch and number of blocks, and once with
the default options ("default" in the column of blocks): the cosine of hbll's gradient (`discount=1`) to the exact one in
float64, by PyTorch's own layers. Beside it stands what float32 itself is worth: the cosine of the exact gradient in
float32, by the same layers, to that in float64. Where that is low, rounding decides, and no float32 pass can do better.
A gradient that explodes may have the right direction and a wrong length, since one path through time makes all of it; so
rounding decides too where the float32 gradient is more than 5 % off.

A row passes if its cosine is at least 0.999, if rounding decides, or if the rule says that its boundaries were
forced. The last line counts. `--time` adds the time of a step beside that of the best exact schedule, alternating,
medians of 5; run it on a quiet machine. Rows go to `benchmarks/out/dynamics.jsonl` too.
"""

import argparse
import copy
import importlib
import json
import math
import pathlib
import statistics
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor

import hbll_seq as hs
from benchmarks.dynamics_models import ALL, BPTT_OPTIONS, FAMILY, build, data, supported
from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models import SequenceModel

OUT = pathlib.Path(__file__).parent / "out" / "dynamics.jsonl"
ENOUGH = 0.999
TOO_FAR = 0.05  # relative distance that float32's own gradient may have from float64's; about what a cosine of 0.999 is
COLUMNS = (
    "model | T | B | blocks | cosine | float32's own | norm | verdict | ran | boundaries | sweeps | corrections"
    " | inconsistency | feedback residual"
)


def gradient(model: SequenceModel, batch: Batch, rule: Any) -> tuple[Tensor, dict[str, Any]]:
    """What one step of a rule leaves in `.grad`, as one float64 vector, and its metrics."""
    model.zero_grad()
    metrics = dict(rule.step(model, batch).metrics)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    return torch.cat([g.flatten().double() for g in found]), metrics


def exact(model: SequenceModel, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The exact gradient, by PyTorch's own layers."""
    options: dict[str, Any] = {"kernels": "torch"} if "kernels" in BPTT_OPTIONS else {}
    y = batch.y.to(dtype) if batch.y.is_floating_point() else batch.y
    return gradient(copy.deepcopy(model).to(dtype), batch._replace(y=y), hs.rules.make("bptt", **options))[0]


def cosine(a: Tensor, b: Tensor) -> float:
    """NaN where either is not finite; scaled first, since squares of large gradients overflow."""
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.nan
    a, b = (v / v.abs().max().clamp(min=1e-300) for v in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b, 0))


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance |a - b| / |b|; NaN where either is not finite."""
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.nan
    size = b.abs().max().clamp(min=1e-300)
    return float(((a - b) / size).norm() / (b / size).norm())


def hbll(model: SequenceModel, **options: Any) -> Any:
    """The rule, ready to step; options that this version lacks are left out."""
    rule = hs.rules.make("hbll", **supported(discount=1.0, **options))
    rule.setup(model, torch.Generator().manual_seed(0))
    return rule


def insides(rule: Any) -> Any:
    """What holds the rule's records and controller: its engine, where it has one."""
    return getattr(rule, "engine", rule)


def solver() -> Any:
    """The module that solves for states and messages, wherever this version has it."""
    try:
        return importlib.import_module("hbll_seq.solve")
    except ModuleNotFoundError:
        return importlib.import_module("hbll_seq.engine.solve")


def never_give_up() -> None:
    """From now on sweeps and corrections go on to their limit, in versions that would give up before."""
    effort = solver().Effort
    if hasattr(effort, "hopeless"):
        effort.hopeless = lambda *_: False


def exact_rules(model: SequenceModel, steps: int) -> list[Any]:
    """The exact schedules that this version has."""
    rules = [hbll(model, execution="sequential", block_size=steps)]
    try:
        rules.append(hbll(model, execution="exact-forward"))
    except InputError:
        pass
    return rules


def timed(model: SequenceModel, batch: Batch, rule: Any) -> dict[str, float]:
    """Median milliseconds a step of the rule, and of the best exact schedule, alternating."""
    sides = [rule, *exact_rules(model, batch.x.shape[1])]
    seconds: list[list[float]] = [[] for _ in sides]
    for i in range(7):
        for side, times in zip(sides, seconds, strict=True):
            model.zero_grad()
            start = time.perf_counter()
            side.step(model, batch)
            if i >= 2:
                times.append(time.perf_counter() - start)
    own, *others = (1e3 * statistics.median(times) for times in seconds)
    return {"ms": own, "exact_ms": min(others)}


def verdict(found: float, own: float, error: float, boundaries: str) -> str:
    """Of one row; see the module's docstring."""
    if found >= ENOUGH:
        return "ok"
    if not (own >= ENOUGH and error <= TOO_FAR):
        return "rounding decides"
    return "forced" if boundaries == "forced" else "FAIL"


def number(value: Any, form: str = ".1e") -> str:
    return "" if value is None else format(value, form) if isinstance(value, int | float) else str(value)


def rows_of(a: argparse.Namespace, name: str, model: SequenceModel, t: int, b: int, seed: int) -> list[dict[str, Any]]:
    """All rows of one model, length and batch."""
    batch = data(name, b, t, seed)
    truth, own32 = exact(model, batch, torch.float64), exact(model, batch, torch.float32)
    own, error, norm = cosine(own32, truth), apart(own32, truth), float(truth.norm())
    cases: list[tuple[str, dict[str, Any]]] = [("default", {})]
    for n in a.blocks:
        for execution in a.execution:
            label = f"{n}" if len(a.execution) == 1 else f"{n} {execution}"
            cases.append((label, dict(block_size=t // n, execution_block=t // n, execution=execution)))
    rows = []
    for label, options in cases:
        found, m = gradient(model, batch, hbll(model, **options))
        c = cosine(found, truth)
        row: dict[str, Any] = dict(
            model=name, T=t, B=b, seed=seed, blocks=label, cosine=c, float32=own, float32_error=error, norm=norm, cosine32=cosine(found, own32),
            hbll_norm=float(found.norm()), verdict=verdict(c, own, error, str(m.get("boundaries"))), schedule=m.get("schedule"),
            boundaries=m.get("boundaries"), sweeps=m.get("sweeps"), corrections=m.get("corrections"),
            inconsistency=m.get("inconsistency"), feedback_residual=m.get("feedback_residual"),
        )  # fmt: skip
        if a.time:
            row |= timed(model, batch, hbll(model, **options))
        rows.append(row)
    return rows


def line(row: dict[str, Any], time_too: bool) -> str:
    cells = [row["model"], row["T"], row["B"], row["blocks"], number(row["cosine"], ".4f"), number(row["float32"], ".4f"),
             number(row["norm"]), row["verdict"], number(row["schedule"]), number(row["boundaries"]),
             number(row["sweeps"], ".0f"), number(row["corrections"], ".0f"), number(row["inconsistency"]),
             number(row["feedback_residual"])]  # fmt: skip
    if time_too:
        cells += [f"{row['ms']:.1f}", f"{row['exact_ms']:.1f}", f"{row['ms'] / row['exact_ms']:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=list(FAMILY), choices=list(ALL))
    p.add_argument("--steps", type=int, nargs="+", default=[512, 4096])
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    p.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16, 64, 256])
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the data")
    p.add_argument("--execution", nargs="+", default=["parallel"], help="of the rows with a number of blocks")
    p.add_argument("--time", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--quick", action="store_true", help="T=512, B=1, 4, 16 and 64 blocks")
    a = p.parse_args()
    if a.quick:
        a.steps, a.batch, a.blocks = [512], [1], [4, 16, 64]
    torch.set_num_threads(a.threads)
    columns = COLUMNS + (" | ms | best exact ms | ratio" if a.time else "")
    print(f"| {columns} |\n" + "|---" * (columns.count("|") + 1) + "|")
    counts: Counter[str] = Counter()
    slow = timings = 0
    OUT.parent.mkdir(exist_ok=True)
    for name in a.models:
        model = build(name)
        for t in a.steps:
            for b in a.batch:
                for seed in a.seeds:
                    for row in rows_of(a, name, model, t, b, seed):
                        print(line(row, a.time), flush=True)
                        counts[row["verdict"]] += 1
                        if a.time and row["blocks"] == "default":
                            timings, slow = timings + 1, slow + (row["ms"] > 1.1 * row["exact_ms"])
                        with OUT.open("a") as file:
                            file.write(json.dumps(row) + "\n")
    if a.time:
        print(f"default: {slow} of {timings} slower than 1.1 times the best exact schedule")
    fails = counts.pop("FAIL", 0)
    passed = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
    print(f"{sum(counts.values())} passed ({passed}), {fails} failed")


if __name__ == "__main__":
    main()
