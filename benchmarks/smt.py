"""The nearest rival, `rule="smt"`, beside hbll, BPTT and truncated BPTT, at equal updates and with their seconds.

    python -m benchmarks.smt grid --tasks recall parity
    python -m benchmarks.smt runs --tasks recall parity --seeds 100 101 102
    python -m benchmarks.smt report

`grid` makes short runs with seed 0. Every rule tries the same learning rates; `smt` also tries its own options, one
after the other: weight of the dynamics, the teacher's rate, share of the run that is rolled, steps between pulled
states, weight of the uniformity. `runs` takes the best options found, with fresh seeds. Lines go to
`benchmarks/results/smt-grid.jsonl` and `smt.jsonl`. Seconds are CPU time of this process inside updates, the teacher's
included.
"""

import argparse
import math
import statistics
import time
from typing import Any

import torch

from benchmarks.results import append, done, read
from benchmarks.tasks import Task, build, parity, recall, shakespeare
from hbll_seq import rules, step
from hbll_seq.losses import correct
from hbll_seq.models.scoring import score
from hbll_seq.training.optim import make_schedule

TASKS = dict(
    shakespeare=shakespeare,
    recall=lambda: recall(steps=64, timescale=64),
    parity=lambda: parity(steps=64),
)
GRID_STEPS, STEPS = dict(shakespeare=150, recall=200, parity=200), dict(shakespeare=400, recall=600, parity=600)
RULES: dict[str, dict[str, Any]] = dict(hbll={}, bptt={}, tbptt={}, smt=dict(teacher=64, teacher_rate=0.5))
RATES = (2e-3, 4e-3, 8e-3)
OWN: list[tuple[str, tuple[float, ...]]] = [  # options of smt; the values beside the one it has by then
    ("dynamics", (0.1, 1.0)), ("teacher_rate", (0.25, 1.0)), ("rolled", (0.3,)), ("every", (16,)),
    ("spread", (0.1,)),
]  # fmt: skip
POINTS = 8  # of a curve


def train(task: Task, rule: str, options: dict[str, Any], lr: float, steps: int, seed: int) -> dict[str, Any]:
    """Train one model; return figures and curve of the deployed chain on the held-out batch."""
    model, learner = build(task, seed), rules.make(rule, **options)
    learner.expect(task.test.x.shape[1])
    learner.setup(model, torch.Generator().manual_seed(seed))
    own = [dict(params=learner.parameters(), lr=lr * learner.rate)] if learner.parameters() else []
    optimizer = torch.optim.Adam([dict(params=list(model.parameters()), lr=lr), *own])
    peaks, factor = [group["lr"] for group in optimizer.param_groups], make_schedule("linear", steps, 0)
    draw, seconds, teacher, each, curve = torch.Generator().manual_seed(seed), 0.0, 0.0, list[float](), []
    for i in range(steps):
        batch = task.sample(draw)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor(i)
        began = time.process_time()
        info = step(model, batch, learner, optimizer, progress=i / steps)
        each.append(time.process_time() - began)
        seconds += each[-1]
        teacher += float(info.result.metrics.get("teacher_seconds", 0.0))
        if not info.updated:
            raise RuntimeError(f"update {i} of {rule} is not finite")
        if (i + 1) % math.ceil(steps / POINTS) == 0 or i + 1 == steps:
            curve.append(dict(step=i + 1, seconds=seconds, **held_out(model, task)))
    figures = dict(held_out(model, task), seconds=seconds, ms=1000 * statistics.median(each),
                   chain_gap=abs(float(info.result.loss) - score(model, batch)[0]),
                   parameters=sum(p.numel() for p in model.parameters()))  # fmt: skip
    if rule == "smt":
        figures |= dict(teacher_parameters=sum(p.numel() for p in learner.parameters()), teacher_seconds=teacher)
    return dict(figures=figures, curve=curve)


def held_out(model: Any, task: Task) -> dict[str, float]:
    """Loss and accuracy of the deployed chain."""
    loss, out = score(model, task.test)
    right, count = correct(out, task.test)
    return dict(loss=loss, accuracy=right / count)


def record(name: str, task: str, rule: str, options: dict[str, Any], lr: float, steps: int, seed: int) -> float:
    """Make a run that is not on record yet, append it, and return its held-out loss."""
    every = dict(cell="gru", lr=lr, steps=steps, schedule="linear", **options)
    key = dict(task=task, rule=rule, seed=seed, options=every)
    if not done(name, **key):
        found = append(dict(benchmark=name, **key, **train(TASKS[task](), rule, options, lr, steps, seed)))
        print(task, rule, seed, every, {k: round(v, 4) for k, v in found["figures"].items()}, flush=True)
    return float(read(name, **key)[0]["figures"]["loss"])


def grid(task: str, rule: str) -> None:
    """Learning rates with the rule's first options; for smt then its options, each beside the best so far."""
    steps, options = GRID_STEPS[task], dict(RULES[rule])
    losses = {lr: record("smt-grid", task, rule, options, lr, steps, 0) for lr in RATES}
    lr = min(losses, key=lambda one: losses[one])
    least = losses[lr]
    for name, values in OWN if rule == "smt" else []:
        for value in values:
            loss = record("smt-grid", task, rule, {**options, name: value}, lr, steps, 0)
            if loss < least:
                least, options = loss, {**options, name: value}


def best(task: str, rule: str) -> tuple[dict[str, Any], float]:
    """The options of a rule, and its learning rate, with the least loss in the grid."""
    found = min(read("smt-grid", task=task, rule=rule), key=lambda one: one["figures"]["loss"])["options"]
    return {k: v for k, v in found.items() if k not in ("cell", "lr", "steps", "schedule")}, found["lr"]


def report() -> None:
    """Print a table of the runs."""
    print("| task | rule | rate, own options | loss by seed | mean | accuracy | CPU s |")
    print("|---" * 7 + "|")
    for task in TASKS:
        for rule in RULES:
            runs = read("smt", task=task, rule=rule)
            if runs:
                figures = {k: [one["figures"][k] for one in runs] for k in ("loss", "accuracy", "seconds")}
                options = {k: v for k, v in runs[0]["options"].items() if k not in ("cell", "steps", "schedule")}
                print(f"| {task} | {rule} | {options} | " + " ".join(f"{v:.3f}" for v in figures["loss"]) + f" | "
                      f"{statistics.mean(figures['loss']):.3f} | {100 * statistics.mean(figures['accuracy']):.1f} % | "
                      f"{statistics.mean(figures['seconds']):.1f} |")  # fmt: skip


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("grid", "runs", "report"))
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    p.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    p.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    a = p.parse_args()
    torch.set_num_threads(1)
    if a.what == "report":
        report()
        return
    for seed in a.seeds if a.what == "runs" else [0]:
        for task in a.tasks:
            for rule in a.rules:
                if a.what == "grid":
                    grid(task, rule)
                else:
                    options, lr = best(task, rule)
                    record("smt", task, rule, options, lr, STEPS[task], seed)


if __name__ == "__main__":
    main()
