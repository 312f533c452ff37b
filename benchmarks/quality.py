"""Learning quality: one rule on one task, or a whole comparison, same everything but the rule.

    python -m benchmarks.quality TASK RULE --steps 600 --lr 8e-3 --seeds 0 1 2 [--grid 4e-3 8e-3 16e-3]
        [--options "sweeps=2, feedback=1"] [--task "steps=1024, hidden=256"] [--cosine 50] [--threads 1] [--record]

With `--grid` the learning rate is chosen on the first seed by held-out loss (the same grid for every rule), and the
other seeds run with it. Adam, linear decay to zero, gradients clipped at norm 1. Each run appends a line of JSON
to benchmarks/out/quality.jsonl; `python -m benchmarks.quality --report` prints the table. With `--record` the runs that
are not of the grid go to `benchmarks/results/quality.jsonl` too. The held-out figures are those of the deployed chain,
rolled sequentially. Times are those of the rule's steps: CPU time with one thread, else wall time.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import append
from benchmarks.tasks import TASKS, build
from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.models import SequenceModel

OUT = pathlib.Path(__file__).parent / "out" / "quality.jsonl"


def flops(call: Callable[[], object]) -> int:
    """Of matrix products in one call; a product of sums counts 2."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@torch.no_grad()
def held_out(model: SequenceModel, test: Batch, rows: int = 250) -> tuple[float, float]:
    """Loss (nats or squared error) and accuracy of the deployed chain."""
    loss = right = 0.0
    for x, y in zip(test.x.split(rows), test.y.split(rows), strict=True):
        out = model(x)
        if model.objective == "mse":
            loss += float(functional.mse_loss(out, y)) * len(x)
        else:
            out = out.flatten(0, -2)
            loss += float(functional.cross_entropy(out, y.flatten())) * len(x)
            right += float((out.argmax(-1) == y.flatten()).float().mean()) * len(x)
    return loss / len(test.x), right / len(test.x)


def gradient(rule: rules.Rule, model: SequenceModel, batch: Batch, progress: float = 1.0) -> torch.Tensor:
    """One rule's gradient as a vector, `.grad` left clear."""
    model.zero_grad()
    rule.step(model, batch, progress=progress)
    vector = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return vector


def train(
    name: str, rule_name: str, *, steps: int, lr: float, seed: int, options: dict[str, Any], task_options: dict[str, Any],
    cosine: int = 0, every: int = 0, cell: str = "gru",
) -> dict[str, Any]:  # fmt: skip
    """Train once; the record that goes to the JSON file."""
    task = TASKS[name](**task_options)
    model, rule, g = (
        build(task, seed, cell),
        rules.make(rule_name, **options),
        torch.Generator().manual_seed(1000 + seed),
    )
    rule.expect(task.test.x.shape[1])
    rule.setup(model, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam([*model.parameters(), *rule.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    losses, cosines, curve, seconds = [], [], [], []
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter  # other work does not count
    metrics: dict[str, list[Any]] = {}
    for i in range(steps):
        batch = task.sample(g)
        if cosine and i % cosine == 0:
            exact = gradient(rules.make("bptt"), model, batch)
        optimizer.zero_grad()
        start = clock()
        result = rule.step(model, batch, progress=i / steps)
        seconds.append(clock() - start)
        if cosine and i % cosine == 0:
            ours = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            cosines.append(float(functional.cosine_similarity(exact, ours, 0)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(result.loss)
        for key, value in result.metrics.items():
            metrics.setdefault(key, []).append(value)
        if every and (i + 1) % every == 0:
            curve.append((i + 1, *held_out(model, task.test)))
            print(
                f"  {name} {rule_name} seed {seed} step {i + 1} held out {curve[-1][1]:.4f} {curve[-1][2]:.3f}",
                flush=True,
            )
    loss, accuracy = held_out(model, task.test)
    tree, counts = None, [sum(p.numel() for p in one) for one in (model.parameters(), rule.parameters())]
    chain = flops(lambda: model(task.test.x[:1]))
    read = 0
    if isinstance(rule, rules.HBLLv1):
        out = torch.cat([rule.readout(model, rows) for rows in task.test.x.split(100)])
        read = flops(lambda: rule.readout(model, task.test.x[:1]))
        tree = float((out.argmax(-1) == task.test.y).float().mean())
    return dict(
        task=name, rule=rule_name, steps=steps, lr=lr, seed=seed, options=options, task_options=task_options, cell=cell,
        loss=loss, accuracy=accuracy, train=statistics.mean(losses[-20:]), step_ms=1e3 * statistics.median(seconds),
        seconds=sum(seconds), objective=model.objective,
        cosine_first=cosines[0] if cosines else None, cosine_least=min(cosines) if cosines else None,
        cosine_median=statistics.median(cosines) if cosines else None, cosines=cosines, curve=curve,
        tree=tree, parameters=counts, flops=[chain, read], metrics={k: sorted(set(v)) if isinstance(v[0], str) else statistics.mean(v) for k, v in metrics.items()}, threads=torch.get_num_threads(),
    )  # fmt: skip


def record(r: dict[str, Any]) -> dict[str, Any]:
    """The record for `benchmarks.results`; a cosine is the least of the run."""
    options = dict(
        steps=r["steps"],
        lr=r["lr"],
        cell=r["cell"],
        **r["options"],
        **{f"task {k}": v for k, v in r["task_options"].items()},
    )
    rule = r["rule"] + (", at once" if r["options"].get("execution") == "parallel" else "")
    figures = dict(loss=r["loss"], ms=round(r["step_ms"], 3), seconds=round(r["seconds"], 2))
    if r["objective"] != "mse":
        figures["accuracy"] = r["accuracy"]
    if r["cosine_least"] is not None:
        figures["cosine"] = r["cosine_least"]
    return dict(
        benchmark="quality", task=f"{r['task']}, {r['steps']:,} updates", rule=rule, seed=r["seed"], options=options,
        figures=figures,
    )  # fmt: skip


def keep(r: dict[str, Any], on_record: bool = False) -> None:
    """Print a line and append the run to the file, and to the results on record."""
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("a") as file:
        file.write(json.dumps(r) + "\n")
    if on_record:
        append(record(r))
    tree = "" if r["tree"] is None else f" tree {100 * r['tree']:.1f} % parameters {r['parameters']} flops {r['flops']}"
    cosine = "" if r["cosine_least"] is None else f" cosine {r['cosine_first']:.4f} least {r['cosine_least']:.4f}"
    print(
        f"{r['task']} {r['task_options']} {r['rule']} {r['options']} lr {r['lr']} seed {r['seed']}: loss {r['loss']:.4f} "
        f"accuracy {100 * r['accuracy']:.1f} % train {r['train']:.4f} {r['step_ms']:.0f} ms/step{cosine}{tree}",
        flush=True,
    )


def report() -> None:
    """Mean and spread over seeds of everything in the file, best learning rate of each rule."""
    groups: dict[tuple[str, ...], dict[float, dict[int, dict[str, Any]]]] = {}
    for line in OUT.read_text().splitlines():
        r = json.loads(line)
        key = (
            r["task"],
            json.dumps(r["task_options"]),
            r["cell"],
            str(r["steps"]),
            r["rule"],
            json.dumps(r["options"]),
        )
        groups.setdefault(key, {}).setdefault(r["lr"], {})[r["seed"]] = r
    print(
        "| task | cell | steps | rule | lr | seeds | held-out loss | accuracy % | ms/step | cosine first/median/least | tree accuracy % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key, by_lr in sorted(groups.items()):
        lr, runs = min(by_lr.items(), key=lambda item: (-len(item[1]), next(iter(item[1].values()))["loss"]))
        rows = list(runs.values())
        losses, accuracies = [r["loss"] for r in rows], [100 * r["accuracy"] for r in rows]
        seen = [r for r in rows if r["cosine_least"] is not None]
        cosine = "" if not seen else " / ".join(
            f"{v:.3f}" for v in (min(r["cosine_first"] for r in seen), statistics.median(r["cosine_median"] for r in seen),
                                 min(r["cosine_least"] for r in seen)))  # fmt: skip
        trees = [100 * r["tree"] for r in rows if r.get("tree") is not None]
        tree = f"{statistics.mean(trees):.1f}" if trees else ""
        print(
            f"| {key[0]} {key[1]} | {key[2]} | {key[3]} | {key[4]} {key[5]} | {lr} | {len(rows)} "
            f"| {statistics.mean(losses):.4f} ({min(losses):.4f}..{max(losses):.4f}) "
            f"| {statistics.mean(accuracies):.1f} ({min(accuracies):.1f}..{max(accuracies):.1f}) "
            f"| {statistics.median(r['step_ms'] for r in rows):.0f} | {cosine} | {tree} |"
        )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", nargs="?", choices=sorted(TASKS))
    p.add_argument("rule", nargs="?")
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--lr", type=float, default=8e-3)
    p.add_argument("--grid", type=float, nargs="*", default=[])
    p.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    p.add_argument("--options", default="", help="of the rule, as Python keyword arguments")
    p.add_argument("--task", dest="task_options", default="", help="of the task, as Python keyword arguments")
    p.add_argument("--cell", default="gru")
    p.add_argument("--cosine", type=int, default=0, help="compare with the BPTT gradient every so many steps")
    p.add_argument("--every", type=int, default=0, help="held-out figures every so many steps")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--record", action="store_true", help="append the runs to the results on record")
    p.add_argument("--report", action="store_true")
    a = p.parse_args()
    if a.report:
        return report()
    if a.task is None or a.rule is None:
        p.error("a task and a rule, or --report")
    torch.set_num_threads(a.threads)
    common = dict(
        steps=a.steps, options=eval(f"dict({a.options})"), task_options=eval(f"dict({a.task_options})"), cosine=a.cosine,
        every=a.every, cell=a.cell,
    )  # fmt: skip
    seeds, lr = list(a.seeds), a.lr
    if a.grid:
        runs = [train(a.task, a.rule, lr=rate, seed=seeds[0], **common) for rate in a.grid]
        for run in runs:
            keep(run)
        lr, seeds = min(runs, key=lambda r: r["loss"])["lr"], seeds[1:]
    for seed in seeds:
        keep(train(a.task, a.rule, lr=lr, seed=seed, **common), a.record)


if __name__ == "__main__":
    main()
