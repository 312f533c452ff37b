"""Time of one training step, rules side by side: `python -m benchmarks.speed [--threads 2] [--rules hbll bptt]`.

Next-symbol RNN (`--cell gru` unless said otherwise) on random symbols (64 of them), forward, backward and update, float32. The rules alternate within one
process; each figure is the median of `--repeats` steps after 3 to warm up. Shapes whose BPTT step would
take longer than `--patience` seconds are left out and said so. Ratios above 1 mean that hbll is faster.
Not in the figures: the forward pass of the deployed chain that hbll makes every 50 steps to set its tolerance.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch

from hbll_seq import rules, step
from hbll_seq.batch import Batch
from hbll_seq.models import CharLM

OUT = pathlib.Path(__file__).parent / "out" / "speed.jsonl"
V = 64


def _options(name: str) -> dict[str, object]:
    """Of a side: "hbll", "hbll-auto" and "hbll-sequential" differ in `execution`."""
    if not name.startswith("hbll"):
        return {}
    return {"check_every": 0, "execution": name.partition("-")[2] or "parallel"}


def measure(names: list[str], b: int, t: int, d: int, repeats: int, cell: str = "gru") -> dict[str, dict[str, float]]:
    """Median seconds a step, and depth, of each rule."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, V, (b, t + 1), generator=g)
    batch = Batch(x[:, :-1].contiguous(), torch.full((b,), t), x[:, 1:].contiguous(), None)
    sides = []
    for name in names:
        model = CharLM(V, hidden=d, cell=cell)
        rule = rules.make(name.split("-")[0], **_options(name))
        rule.setup(model, torch.Generator().manual_seed(0))
        sides.append((name, model, rule, torch.optim.SGD(model.parameters(), lr=1e-6)))
    times: dict[str, list[float]] = {name: [] for name in names}
    metrics: dict[str, dict[str, float]] = {}
    for i in range(repeats + 3):
        for name, model, rule, optimizer in sides:
            start = time.perf_counter()
            info = step(model, batch, rule, optimizer)
            if i >= 3:
                times[name].append(time.perf_counter() - start)
            metrics[name] = info.result.metrics
    return {name: {"seconds": statistics.median(times[name]), **metrics[name]} for name in names}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rules", nargs="+", default=["hbll", "bptt"])
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--steps", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    p.add_argument("--hidden", type=int, nargs="+", default=[64, 128, 256])
    p.add_argument("--cell", default="gru")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--patience", type=float, default=3.0)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    OUT.parent.mkdir(exist_ok=True)
    first, *others = a.rules
    print(f"{a.cell}, {a.threads} threads, torch {torch.__version__}, medians of {a.repeats}, alternating")
    print(
        "| B | T | d | "
        + " | ".join(f"{r} ms" for r in a.rules)
        + " | "
        + " | ".join(f"{r}/{first}" for r in others)
        + " | sweeps | depth |"
    )
    print("|---" * (5 + len(a.rules) + len(others)) + "|")
    for b in a.batch:
        for d in a.hidden:
            rate = 0.0  # seconds of BPTT a step of time, from the shorter sequence before
            for t in a.steps:
                if rate * t > a.patience:
                    print(f"| {b} | {t} | {d} | left out: BPTT would take about {rate * t:.0f} s a step |", flush=True)
                    continue
                result = measure(a.rules, b, t, d, a.repeats, a.cell)
                rate = max(r["seconds"] for r in result.values()) / t
                seconds = [result[r]["seconds"] for r in a.rules]
                ratios = [f"{s / seconds[0]:.2f}x" for s in seconds[1:]]
                cells = [f"{1e3 * s:.1f}" for s in seconds] + ratios
                extra = f"{result[first].get('sweeps', 0):.0f} | {result[first]['depth']:.0f}"
                print(f"| {b} | {t} | {d} | " + " | ".join(cells) + f" | {extra} |", flush=True)
                with OUT.open("a") as file:
                    file.write(
                        json.dumps({"B": b, "T": t, "d": d, "threads": a.threads, "cell": a.cell, "result": result})
                        + "\n"
                    )


if __name__ == "__main__":
    main()
