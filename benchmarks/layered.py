"""Layered networks: learning over depth by hbll, beside backpropagation and two fairer baselines.

    python -m benchmarks.layered mlp --layers 16 --hidden 50 --epochs 15 --lr 3e-3 --seeds 0 1 2
    python -m benchmarks.layered vit --epochs 8        [--missing 0.8] [--label-noise 0.4]
    python -m benchmarks.layered gpt --steps 1200 --lr 2e-3
    python -m benchmarks.layered --report

Rules: hbll, bp, bp-deep (the shared head's loss on every layer, backpropagated), and for the MLP bp-res (backpropagation
with residual connections and LayerNorm); by name also hbll-v1, Algorithm 1 as published, which has the options `right`,
`step`, `noise` and `variance` (`--rules hbll-v1 --options "step=None"`). Same initialisation, data order, steps and
optimiser (AdamW, weight decay 0.01 or `--decay`, linear decay to zero, gradients clipped at norm 1). MNIST is the 10,000
test images, 8,000 / 2,000; text is tiny Shakespeare (`HBLL_SEQ_DATA`). Every figure stands beside parameters and flops of
its path. Times are those of updates: CPU time with one thread, else wall time.
"""

import argparse
import json
import math
import pathlib
import statistics
import time
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.results import append
from hbll_seq import datasets, rules
from hbll_seq.data.batch import Batch
from hbll_seq.models import GPT, MLP, Layered, ViT
from hbll_seq.paths.costs import PathView, path_flops
from hbll_seq.training.evaluation import evaluate

OUT = pathlib.Path(__file__).parent / "out" / "layered.jsonl"
PATHS = ("full", "short", "first")


def mnist(missing: float, label_noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images `(n, 1, 28, 28)` and labels; `missing` pixels are zero, `label_noise` of the training labels drawn anew."""
    data = datasets.load("mnist10k")
    g = Generator().manual_seed(0)
    x, y, tx, ty = data.train_x, data.train_y.clone(), data.test_x, data.test_y
    if missing:
        x, tx = (one * (torch.rand(one.shape, generator=g) >= missing) for one in (x, tx))
    if label_noise:
        wrong = torch.rand(len(y), generator=g) < label_noise
        y[wrong] = torch.randint(0, 10, (int(wrong.sum()),), generator=g)
    return x.view(-1, 1, 28, 28), y, tx.view(-1, 1, 28, 28), ty


def build(a: argparse.Namespace, rule: str, seed: int) -> Layered:
    """The network, same start for every rule."""
    if a.task == "mlp":
        better = rule == "bp-res"
        return MLP((1, 28, 28), 10, hidden=a.hidden, layers=a.layers, residual=better, norm=better, nodes=a.nodes,
                   seed=seed)  # fmt: skip
    if a.task == "vit":
        return ViT((1, 28, 28), 10, patch=7, hidden=a.hidden, heads=4, layers=a.layers, seed=seed)
    return GPT(
        datasets.load("tinyshakespeare").vocab_size,
        context=a.context,
        hidden=a.hidden,
        heads=4,
        layers=a.layers,
        seed=seed,
    )


def train(a: argparse.Namespace, rule_name: str, lr: float, seed: int) -> dict[str, Any]:
    """One run; the record that goes to the JSON file."""
    model = build(a, rule_name, seed)
    options = eval(f"dict({a.options})") if rule_name in ("hbll", "hbll-v1") else {}
    rule = rules.make("bp" if rule_name == "bp-res" else rule_name, family="layered", **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=a.decay)
    g = Generator().manual_seed(1000 + seed)
    clock = time.process_time if a.threads == 1 else time.perf_counter  # other work beside does not count
    if a.task == "gpt":
        text, t = datasets.load("tinyshakespeare"), a.context
        x, y = text.train, None
        test: tuple[Any, Any] = (text.valid[: 512 * t + 1], None)
        steps = a.steps
    else:
        x, y, *rest = mnist(a.missing, a.label_noise)
        test = (rest[0], rest[1])
        steps = a.epochs * math.ceil(len(x) / a.batch)

    rule.plan(steps * a.batch * (t if y is None else 1) / len(x))
    rule.setup(model, Generator().manual_seed(seed))

    def batches() -> Any:
        while True:
            if y is None:
                at = torch.randint(len(x) - t - 1, (a.batch,), generator=g)
                w = torch.stack([x[i : i + t + 1] for i in at]).long()
                yield Batch(w[:, :-1].contiguous(), torch.full((a.batch,), t), w[:, 1:].contiguous(), None)
            else:
                for rows in torch.randperm(len(x), generator=g).split(a.batch):
                    yield Batch(x[rows], torch.ones(len(rows)), y[rows], None)

    model.train()
    stream, seconds = batches(), []
    for i in range(steps):
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (i + 1) / 50) * (1 - i / steps)
        began = clock()
        optimizer.zero_grad()
        result = rule.step(model, batch, progress=i / steps)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(clock() - began)
    figures = {}
    for path in PATHS:
        one = evaluate(PathView(model, path), *test)
        example = batch.x[:1]
        nodes = model.path(path)
        parts = [model.embed, model.head, *(model.layers[n - 1] for n in nodes)]
        figures[path] = dict(
            loss=one["loss"], accuracy=one.get("accuracy"), flops=path_flops(model, path, example),
            parameters=sum(p.numel() for m in parts for p in m.parameters()), modules=len(nodes),
        )  # fmt: skip
    return dict(
        task=a.task, rule=rule_name, options=options, layers=a.layers, hidden=a.hidden, steps=steps, batch=a.batch, lr=lr,
        seed=seed, missing=a.missing, label_noise=a.label_noise, decay=a.decay, nodes=a.nodes,
        figures=figures,
        step_ms=1e3 * statistics.median(seconds), depth=result.metrics["depth"], threads=torch.get_num_threads(),
        seconds=sum(seconds),
    )  # fmt: skip


def keep(r: dict[str, Any]) -> None:
    """Print a line and append the record to the file."""
    OUT.parent.mkdir(exist_ok=True)
    with OUT.open("a") as file:
        file.write(json.dumps(r) + "\n")
    append(record(r))
    shown = " ".join(f"{p} {_figure(r['task'], r['figures'][p]):.3f}" for p in PATHS)
    print(
        f"{r['task']} {r['layers']}x{r['hidden']} {r['rule']} {r['options']} lr {r['lr']} seed {r['seed']}: {shown} "
        f"({r['step_ms']:.0f} ms/step, {r['seconds']:.0f} s)",
        flush=True,
    )


def record(r: dict[str, Any]) -> dict[str, Any]:
    """The record for `benchmarks.results`: the full path's figures."""
    kept = ("hidden", "batch", "lr", "steps", "missing", "label_noise", "nodes")
    decay = {"decay": r["decay"]} if r["decay"] != 0.01 else {}  # older records do not name the usual one
    spoilt = "".join(
        f", {r[name]:.0%} {of}" for name, of in (("missing", "missing"), ("label_noise", "wrong")) if r[name]
    )
    return dict(
        benchmark="layered", task=f"{r['task']}, N = {r['layers']}, {r['steps']:,} updates{spoilt}", rule=r["rule"],
        seed=r["seed"],
        options={name: r[name] for name in kept} | r["options"] | decay,
        figures={
            "perplexity" if r["task"] == "gpt" else "accuracy": _figure(r["task"], r["figures"]["full"])
            / (1 if r["task"] == "gpt" else 100),
            "loss": r["figures"]["full"]["loss"], "ms": r["step_ms"], "seconds": r["seconds"],
        },
    )  # fmt: skip


def _figure(task: str, f: dict[str, Any]) -> float:
    return math.exp(f["loss"]) if task == "gpt" else 100 * f["accuracy"]


def report() -> None:
    """Means over seeds at each rule's best learning rate (by the full path's loss on the seed all rates share)."""
    groups: dict[tuple[Any, ...], dict[float, dict[int, dict[str, Any]]]] = {}
    for line in OUT.read_text().splitlines():
        r = json.loads(line)
        key = (r["task"], r["hidden"], r["layers"], r["missing"], r["label_noise"], r["steps"], r["nodes"], r["rule"],
               json.dumps(r["options"]), r.get("decay", 0.01))  # fmt: skip
        groups.setdefault(key, {}).setdefault(r["lr"], {})[r["seed"]] = r
    print("| task | N x width | steps | rule | lr | seeds | full | short | first | parameters, Mflop full | same, short |"
          " ms/step | depth |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for key, by_lr in sorted(groups.items()):
        lr, runs = min(by_lr.items(), key=lambda item: item[1][min(item[1])]["figures"]["full"]["loss"])
        if max(len(v) for v in by_lr.values()) > len(runs):  # the grid's winner is the rate that has all seeds
            lr, runs = max(by_lr.items(), key=lambda item: len(item[1]))
        rows = list(runs.values())
        cells = []
        for path in PATHS:
            v = [_figure(key[0], r["figures"][path]) for r in rows]
            cells.append(f"{statistics.mean(v):.2f} ({min(v):.2f}..{max(v):.2f})")
        f, s = rows[0]["figures"]["full"], rows[0]["figures"]["short"]
        extra = "".join(f" {n} {v}" for n, v in (("missing", key[3]), ("label noise", key[4])) if v)
        extra += " bernoulli" if key[6] == "bernoulli" else ""
        extra += f" weight decay {key[9]}" if key[9] != 0.01 else ""
        print(
            f"| {key[0]}{extra} | {key[2]} x {key[1]} | {key[5]} | {key[7]} {'' if key[8] == '{}' else key[8]} | {lr} "
            f"| {len(rows)} | {' | '.join(cells)} | {f['parameters']:,}, {f['flops'] / 1e6:.2f} "
            f"| {s['parameters']:,}, {s['flops'] / 1e6:.2f} | {statistics.median(r['step_ms'] for r in rows):.0f} "
            f"| {rows[0]['depth']:.0f} |"
        )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", nargs="?", choices=["mlp", "vit", "gpt"])
    p.add_argument("--rules", nargs="*")
    p.add_argument("--options", default="", help="of hbll and hbll-v1, as Python keyword arguments")
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--hidden", type=int, default=64)
    p.add_argument("--context", type=int, default=64)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--epochs", type=int, default=15)
    p.add_argument("--steps", type=int, default=1200)
    p.add_argument("--lr", type=float, nargs="*", default=[3e-3], help="tried on the first seed, the best goes on")
    p.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    p.add_argument("--nodes", default="gaussian")
    p.add_argument("--missing", type=float, default=0.0)
    p.add_argument("--label-noise", type=float, default=0.0)
    p.add_argument("--decay", type=float, default=0.01, help="weight decay of AdamW")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--report", action="store_true")
    a = p.parse_args()
    if a.report:
        return report()
    if a.task is None:
        p.error("a task, or --report")
    torch.set_num_threads(a.threads)
    for rule in a.rules or (["hbll", "bp", "bp-deep"] + (["bp-res"] if a.task == "mlp" else [])):
        runs = [train(a, rule, lr, a.seeds[0]) for lr in a.lr]
        for run in runs:
            keep(run)
        best = min(runs, key=lambda r: r["figures"]["full"]["loss"])["lr"]
        for seed in a.seeds[1:]:
            keep(train(a, rule, best, seed))


if __name__ == "__main__":
    main()
