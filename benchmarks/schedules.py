"""What each schedule costs, and whether the default is the fastest: `python -m benchmarks.schedules [--threads 1 2]`.

One update (forward, backward, SGD) of a next-symbol model of 64 symbols and one recurrent layer, float32, the sides
alternating within one process, medians of `--repeats` after 3 to warm up:

    one call      whole sequences in order, a compiled call each way (exact BPTT by our kernels: the strongest rival)
    exact         exact boundaries by one roll in order, the rest with all blocks at once
    parallel      consistency sweeps, all blocks at once
    default       what `execution="auto"` does, and how far that is from the best of the three
    nn            PyTorch's own layer under autograd (`--nn`)

`--blocks` tries the blocks side with sizes 16 to 1024 as well. `--fit` fits the constants of `hbll_seq.engine.cost` to
what all runs so far have found on this machine, and says by how much the model is off. `--project` prints what the
model expects of machines with more cores: a projection, not a measurement.
"""

import argparse
import json
import math
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

import hbll_seq as hs
from benchmarks import rivals
from hbll_seq.engine import Shape, cost
from hbll_seq.engine.engine import this_machine
from hbll_seq.kernels import machine

OUT = pathlib.Path(__file__).parent / "out" / "schedules.jsonl"
SHAPES = [(1, 1024, 64), (1, 4096, 64), (1, 4096, 128), (1, 4096, 256), (1, 4096, 512), (1, 1024, 1024), (1, 16384, 64),
          (8, 4096, 64), (8, 4096, 128), (32, 1024, 128), (64, 256, 256)]  # fmt: skip
WIDE = [(b, t, d) for d in (32, 64, 128, 256, 512, 1024) for b in (1, 4, 16, 64) for t in (256, 2048, 16384, 65536)
        if b * t * d * d <= 2**30]  # fmt: skip
SIDES = {
    "one call": dict(execution="sequential"),
    "exact": dict(execution="exact-forward"),
    "parallel": dict(execution="parallel"),
    "default": dict(),
}


def update(b: int, t: int, d: int, cell: str, options: dict[str, Any] | None) -> Callable[[], dict[str, Any]]:
    """One training update; options of the rule `hbll`, or None for PyTorch's own layer."""
    batch, model = rivals.data(b, t), hs.models.CharLM(rivals.V, hidden=d, cell=cell, seed=0)
    if options is None:
        rule: hs.Rule[Any] = hs.rules.make("bptt", kernels="torch")
    else:
        rule = hs.rules.make("hbll", check_every=0, **options)
    rule.setup(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    return lambda: hs.step(model, batch, rule, optimizer, progress=0.5).result.metrics  # half way through a run


def measure(sides: dict[str, Callable[[], dict[str, Any]]], repeats: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds and the last metrics of each side, alternating."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    metrics: dict[str, dict[str, Any]] = {}
    for i in range(repeats + 3):
        for name, one in sides.items():
            start = time.perf_counter()
            metrics[name] = one()
            if i >= 3:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"ms": statistics.median(times[name]), **metrics[name]} for name in sides}


def row(a: argparse.Namespace, b: int, t: int, d: int, threads: int) -> dict[str, Any]:
    """Measure one shape, print it, keep it."""
    torch.set_num_threads(threads)
    sides: dict[str, Any] = dict(SIDES)
    if a.blocks:
        sides |= {
            f"{how} {k}": dict(execution=how, execution_block=k, block_size=k, discount=1.0)
            for k in (16, 64, 256, 1024) for how in ("exact-forward", "parallel") if 2 * k <= t
        }  # fmt: skip
    if a.nn:
        sides["nn"] = None
    found = measure({name: update(b, t, d, a.cell, options) for name, options in sides.items()}, a.repeats)
    ms = {name: one["ms"] for name, one in found.items()}
    best = min(ms[name] for name in ms if name not in ("default", "nn"))
    line = dict(
        cell=a.cell, B=b, T=t, d=d, threads=threads, width=machine.target().width, cpu=platform.processor(), ms=ms,
        sweeps={name: one.get("sweeps") for name, one in found.items()},
        ran=found["default"].get("schedule"),
    )  # fmt: skip
    cells = " | ".join(f"{ms[name]:.1f}" for name in ("one call", "exact", "parallel", "default"))
    nn = f" {ms['nn']:.0f} | {ms['nn'] / ms['default']:.1f} |" if a.nn else ""
    least = min((k for k in ms if k not in ("default", "nn")), key=lambda k: ms[k])
    print(
        f"| {b}, {t}, {d} | {threads} | {cells} | {found['default'].get('schedule')} | "
        f"{100 * (ms['default'] / best - 1):+.0f} % ({least}) |{nn}",
        flush=True,
    )
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def lines(cell: str | None = None) -> list[dict[str, Any]]:
    """What was measured so far with this machine's vectors; the latest of every cell, shape and threads."""
    latest: dict[Any, dict[str, Any]] = {}
    for text in OUT.read_text().splitlines():
        one = json.loads(text)
        if one["width"] == machine.target().width and cell in (None, one["cell"]):
            latest[one["cell"], one["B"], one["T"], one["d"], one["threads"]] = one
    return list(latest.values())


def expected(line: dict[str, Any], name: str, c: cost.Constants) -> float:
    """Milliseconds the model gives one side of a line, without what all sides share."""
    gates, parts = {"gru": (3, 1), "lstm": (4, 2), "elman": (1, 1), "mingru": (0, 1)}[line["cell"]]
    work = cost.Work(gates, parts, line["d"])
    m = replace(this_machine(), threads=line["threads"])
    b, t = line["B"], line["T"]
    if name == "one call":
        return cost.sequential(work, b, t, m, c=c) / 1e6
    how, _, size = name.partition(" ")
    block = int(size) if size else hs.rules.make("hbll").engine.credit_block(t, b)
    sweeps = math.inf if how.startswith("exact") else float(line["sweeps"][name])
    return cost.parallel(work, b, t, block, m, sweeps=sweeps, c=c) / 1e6


def fit() -> None:
    """Fit the constants to the differences between a shape's sides, relative to its fastest one."""
    found = lines()
    pairs = []
    for line in found:
        names = [n for n in line["ms"] if n not in ("default", "nn")]
        pairs += [(line, name, min(line["ms"][k] for k in names)) for name in names if name != "one call"]

    def errors(x: np.ndarray) -> np.ndarray:
        c = cost.Constants(*np.exp(x))
        out = []
        for line, name, least in pairs:
            gap = line["ms"][name] - line["ms"]["one call"]
            model = expected(line, name, c) - expected(line, "one call", c)
            out.append(np.clip((model - gap) / max(least, abs(gap) / 2), -3, 3))
        return np.array(out)

    start = np.log(np.array(astuple(cost.FITTED)))
    result = least_squares(errors, start, loss="soft_l1", f_scale=0.1, bounds=(start - 4, start + 4))
    c = cost.Constants(*(float(f"{v:.3g}") for v in np.exp(result.x)))
    print(f"{len(found)} shapes, {len(pairs)} differences: {c}")
    loss = []
    for line in found:
        names = [n for n in line["ms"] if n not in ("default", "nn")]
        model = min(names, key=lambda n, line=line: expected(line, n, c))
        loss.append((line["ms"][model] / min(line["ms"][n] for n in names) - 1, line, model))
    over = sorted(loss, key=lambda one: -one[0])
    print(f"the model's choice is within 10 % of the best in {sum(o[0] <= 0.1 for o in over)} of {len(over)}; worst:")
    for o, line, model in over[:12]:
        print(
            f"  +{100 * o:.0f} % {line['cell']} {line['B'], line['T'], line['d']} x{line['threads']}: {model}, {line['ms']}"
        )


def project() -> None:
    """The model's expectation for more cores: one call, blocks in parallel, and what would be chosen."""
    print(
        "| B, T, d | " + " | ".join(f"{n} threads" for n in (1, 2, 4, 8, 16, 32, 64)) + " |  (ms in kernels, projected)"
    )
    for b, t, d in SHAPES:
        cells = []
        for n in (1, 2, 4, 8, 16, 32, 64):
            m, work = replace(this_machine(), threads=n), cost.Work(3, 1, d)
            options = hs.rules.make("hbll").engine.options
            layer = hs.engine.Layer(3, 1, d, True, 1)
            chosen = hs.engine.choose(layer, Shape(b, t, 64), "cpu", m, options)
            one = cost.sequential(work, b, t, m) / 1e6
            if chosen.execution == "sequential":
                cells.append(f"{one:.1f} in order")
            else:
                sweeps = math.inf if chosen.execution == "exact-forward" else 2.0
                ours = cost.parallel(work, b, t, chosen.block, m, sweeps=sweeps) / 1e6
                cells.append(f"{ours:.1f} ({one / ours:.1f}x of in order)")
        print(f"| {b}, {t}, {d} | " + " | ".join(cells) + " |")


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, nargs="+", default=[2])
    p.add_argument("--cell", default="gru")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--shape", type=int, nargs=3, action="append", metavar=("B", "T", "d"))
    p.add_argument("--grid", action="store_true", help="a wide grid of shapes")
    for flag in ("nn", "blocks", "fit", "project"):
        p.add_argument(f"--{flag}", action="store_true")
    a = p.parse_args()
    if a.fit or a.project:
        fit() if a.fit else project()
        return
    print(f"{a.cell}, vectors of {machine.target().width}, torch {torch.__version__}, medians of {a.repeats}")
    print(
        "| B, T, d | threads | one call | exact | parallel | default | ran | over the best |"
        + (" nn | nn / default |" if a.nn else "")
    )
    for b, t, d in a.shape or (WIDE if a.grid else SHAPES):
        for threads in a.threads:
            row(a, b, t, d, threads)


if __name__ == "__main__":
    main()
