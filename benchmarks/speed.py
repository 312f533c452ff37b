"""Time and memory of one training step, side by side: `python -m benchmarks.speed [--threads 2] [--rules hbll bptt]`.

Sides are described in `benchmarks/rivals.py`. They alternate within one process; each figure is the median of `--repeats`
steps after 3 to warm up, float32. Shapes whose slowest step would take longer than `--patience` seconds are left out and
said so. Ratios above 1 mean that the first side is faster: by default `hbll` as it comes, beside PyTorch's layer (what a
user has), BPTT by our kernels in one call (the exact rival), all blocks at once, and bare matrix products (the bound).
Not in the figures: what hbll looks at every 50 steps.

`--memory` measures instead the peak memory of a step above the program and its input, every side and length in a process of
its own. `--blocks` compares block sizes. `--plot FILE` draws what all runs so far have found over T (B and d the first given).

`--record N` appends the times or the memory to `benchmarks/results/speed.jsonl`, as repetition N; one process a repetition,
so that the medians of all repetitions are independent. `ratio` in it is the time over that of the first side.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from benchmarks import rivals
from benchmarks.results import append

OUT = pathlib.Path(__file__).parent / "out" / "speed.jsonl"
TOLD = {"nn": "torch", "hbll-parallel": "hbll, at once", "hbll-memory": "hbll, 256 MB"}  # sides as records name them


def measure(names: list[str], b: int, t: int, d: int, repeats: int, cell: str = "gru") -> dict[str, dict[str, float]]:
    """Median seconds a step, and the rule's metrics, of each side."""
    batch = rivals.data(b, t)
    sides = [(name, rivals.make(name, batch, d, cell)) for name in names]
    times: dict[str, list[float]] = {name: [] for name in names}
    metrics: dict[str, dict[str, float]] = {}
    for i in range(repeats + 3):
        for name, one in sides:
            start = time.perf_counter()
            metrics[name] = one()
            if i >= 3:
                times[name].append(time.perf_counter() - start)
    return {name: {"seconds": statistics.median(times[name]), **metrics[name]} for name in names}


def peak(name: str, b: int, t: int, d: int, cell: str) -> dict[str, float]:
    """Peak MiB of two steps above what was there before, and the seconds of the second. In this process, once."""
    rivals.make(name, rivals.data(b, min(t, 512)), d, cell)()  # libraries, compiled kernels
    one = rivals.make(name, rivals.data(b, t), d, cell)
    page = resource.getpagesize() / 2**20
    before = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * page
    one()
    start = time.perf_counter()
    one()
    seconds = time.perf_counter() - start
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before, "seconds": seconds}


def _record(**line: object) -> None:
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("a") as file:
        file.write(json.dumps(line) + "\n")


def record(a: argparse.Namespace, b: int, t: int, d: int, sides: dict[str, dict[str, float]], repeats: int) -> None:
    """A record a side, as repetition `a.record`: milliseconds an update, and peak memory or depth where it is known."""
    first = next(iter(sides.values()))["seconds"]
    for name, found in sides.items():
        figures = {"ms": 1e3 * found["seconds"], "ratio": found["seconds"] / first}
        figures |= {kind: found[kind] for kind in ("mib", "depth") if kind in found}
        append(dict(
            benchmark="speed", task=f"{'memory at ' if 'mib' in found else ''}{b} x {t:,}, {d} units",
            rule=TOLD.get(name, name), seed=a.record,
            options=dict(cell=a.cell, threads=a.threads, repeats=repeats), figures=figures,
        ))  # fmt: skip


def _lengths(a: argparse.Namespace, b: int, d: int, one: Callable[[int], float]) -> None:
    """Calls `one` for every length until its slowest side would take longer than the patience allows."""
    rate = 0.0
    for t in a.steps:
        if rate * t > a.patience:
            print(f"| {b} | {t} | {d} | left out: the slowest side would take about {rate * t:.0f} s |", flush=True)
        else:
            rate = one(t) / t


def times(a: argparse.Namespace) -> None:
    """The table of times."""
    first, *others = a.rules
    print(f"{a.cell}, {a.threads} threads, torch {torch.__version__}, medians of {a.repeats}, alternating")
    names = [f"{r} ms" for r in a.rules] + [f"{r}/{first}" for r in others]
    print("| B | T | d | " + " | ".join(names) + " | ran | depth |")
    print("|---" * (5 + len(names)) + "|")
    for b in a.batch:
        for d in a.hidden:

            def one(t: int, b: int = b, d: int = d) -> float:
                result = measure(a.rules, b, t, d, a.repeats, a.cell)
                seconds = [result[r]["seconds"] for r in a.rules]
                columns = [f"{1e3 * s:.1f}" for s in seconds] + [f"{s / seconds[0]:.2f}x" for s in seconds[1:]]
                extra = f"{result[first].get('schedule', '')} | {result[first].get('depth', 0):.0f}"
                print(f"| {b} | {t} | {d} | " + " | ".join(columns) + f" | {extra} |", flush=True)
                _record(B=b, T=t, d=d, threads=a.threads, cell=a.cell, result=result)
                if a.record is not None:
                    record(a, b, t, d, result, a.repeats)
                return max(seconds)

            _lengths(a, b, d, one)


def blocks(a: argparse.Namespace) -> None:
    """The time of every block size beside those of the ones chosen by "auto" and "measured"."""
    print(f"{a.cell}, {a.threads} threads, medians of {a.repeats}, alternating; ms (sweeps) by block size")
    for b in a.batch:
        for d in a.hidden:
            for t in a.steps:
                sizes = [2**i for i in range(3, 15) if 2**i <= t and 4 <= b * t // 2**i <= 1024]
                result = measure(["hbll", "hbll-measured", *(f"hbll-{k}" for k in sizes)], b, t, d, a.repeats, a.cell)
                ms = {name.removeprefix("hbll-"): 1e3 * found["seconds"] for name, found in result.items()}
                auto, measured = ms.pop("hbll"), ms.pop("measured")
                best = min(ms, key=lambda k: ms[k] if int(k) < t else float("inf"))
                row = [f"{k}: {v:.1f} ({result[f'hbll-{k}']['sweeps']:.0f})" for k, v in ms.items()]
                over = [f"{100 * (one / ms[best] - 1):+.0f} %" for one in (auto, measured)]
                chosen = f"auto {auto:.1f} ({over[0]} over {best}), measured {measured:.1f} ({over[1]})"
                print(f"B={b} T={t} d={d}: {chosen}; " + ", ".join(row), flush=True)
                _record(B=b, T=t, d=d, threads=a.threads, cell=a.cell, blocks=result)


def memory(a: argparse.Namespace) -> None:
    """The table of peak memory, a process for every figure."""
    print(f"{a.cell}, {a.threads} threads; peak MiB above program and input (seconds of a step)")
    print("| B | T | d | " + " | ".join(a.rules) + " |")
    print("|---" * (3 + len(a.rules)) + "|")
    for b in a.batch:
        for d in a.hidden:
            rate = dict.fromkeys(a.rules, 0.0)
            for t in a.steps:
                found: dict[str, dict[str, float]] = {}
                for name in a.rules:
                    if rate[name] * t > a.patience:
                        continue
                    command = [sys.executable, "-m", "benchmarks.speed", "--one", name, "--cell", a.cell]
                    command += ["--batch", str(b), "--steps", str(t), "--hidden", str(d), "--threads", str(a.threads)]
                    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    found[name] = json.loads(out)
                    rate[name] = found[name]["seconds"] / t
                row = [f"{f['mib']:.0f} ({f['seconds']:.2f})" if (f := found.get(r)) else "" for r in a.rules]
                print(f"| {b} | {t} | {d} | " + " | ".join(row) + " |", flush=True)
                _record(B=b, T=t, d=d, threads=a.threads, cell=a.cell, memory=found)
                if a.record is not None and found:
                    record(a, b, t, d, found, 1)


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--rules", nargs="+", default=["hbll", "nn", "bptt", "hbll-parallel", "products"], choices=rivals.NAMES
    )
    p.add_argument("--all", action="store_true", help="every side that is installed")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--steps", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    p.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256])
    p.add_argument("--cell", default="gru")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--patience", type=float, default=3.0)
    p.add_argument("--memory", action="store_true")
    p.add_argument("--blocks", action="store_true", help="every block size beside auto's")
    p.add_argument(
        "--record", type=int, metavar="N", help="append the figures to the results on record, as repetition N"
    )
    p.add_argument("--plot", metavar="FILE")
    p.add_argument("--one", choices=rivals.NAMES, help=argparse.SUPPRESS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.one:
        print(json.dumps(peak(a.one, a.batch[0], a.steps[0], a.hidden[0], a.cell)))
        return
    if a.all:
        a.rules = [name for name in rivals.NAMES if rivals.available(name)]
        for name in set(rivals.NAMES) - set(a.rules):
            print(f"left out: {name} (not installed)")
    if a.plot:
        from benchmarks.speed_plot import draw

        draw(OUT, a.plot, b=a.batch[0], d=a.hidden[0], cell=a.cell, threads=a.threads)
    elif a.memory:
        memory(a)
    elif a.blocks:
        blocks(a)
    else:
        times(a)


if __name__ == "__main__":
    main()
