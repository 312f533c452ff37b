"""Messages over depth through a run: cosine to backpropagation's gradient, iterations, calls, and what an update costs.

    python -m benchmarks.depth_messages gpt --layers 16 --steps 400 --lr 4e-3
    python -m benchmarks.depth_messages vit --layers 8 --steps 200 --lr 2e-3
    python -m benchmarks.depth_messages gpt --layers 8 --steps 400 --cost

Trains by rule "hbll" at its defaults (AdamW, 50 updates of warm-up, linear decay, gradients clipped at norm 1). Five
times on the way all modules at once find the gradient of a fresh batch, with the tolerances' defaults: with whole
credit beside backpropagation's, and with the run's own discount beside the same in order. `--cost` times an update of
every schedule at the end, in CPU seconds of one thread. Text is tiny Shakespeare (`HBLL_SEQ_DATA`).
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.layered import build, mnist
from hbll_seq import datasets, rules
from hbll_seq.data.batch import Batch
from hbll_seq.models import Layered

PLACES = 4


def batches(task: str, size: int, context: int, g: torch.Generator) -> Iterator[Batch]:
    if task == "gpt":
        text = datasets.load("tinyshakespeare").train
        while True:
            at = torch.randint(len(text) - context - 1, (size,), generator=g)
            w = torch.stack([text[i : i + context + 1] for i in at]).long()
            yield Batch(w[:, :-1].contiguous(), torch.full((size,), context), w[:, 1:].contiguous(), None)
    x, y, _, _ = mnist(0, 0)
    while True:
        rows = torch.randint(len(x), (size,), generator=g)
        yield Batch(x[rows], torch.ones(size), y[rows], None)


def gradient(model: Layered, batch: Batch, name: str, held: dict, progress: float, **options) -> tuple[Tensor, dict]:
    """The gradient of one fresh rule with what another one measured; and its figures."""
    rule = rules.make(name, family="layered", **options)
    if held and name == "hbll":
        rule.trainer.credit.load_state_dict(held)
    model.zero_grad()
    result = rule.step(model, batch, progress=progress)
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    model.zero_grad()
    return found.double(), result.metrics


def measure(model: Layered, batch: Batch, held: dict, progress: float) -> str:
    cells = []
    for execution in ("exact-forward", "parallel"):
        for discount in (1.0, "auto"):
            options = dict(discount=discount)
            whole = gradient(model, batch, "bp" if discount == 1.0 else "hbll", held, progress,
                             **({} if discount == 1.0 else options))[0]  # fmt: skip
            found, m = gradient(model, batch, "hbll", held, progress, execution=execution, **options)
            cosine = float(torch.cosine_similarity(found, whole, 0))
            cells.append(f"{cosine:.{PLACES}f} ({m['sweeps']:.0f} + {m['corrections']:.0f}, {m['depth']:.0f} calls)")
    return " | ".join(cells)


def cost(model: Layered, source: Iterator[Batch]) -> None:
    sides = {
        "bp": ("bp", {}), "bp-deep": ("bp-deep", {}), "hbll": ("hbll", {}),
        "hbll, exact-forward": ("hbll", {"execution": "exact-forward"}),
        "hbll, parallel": ("hbll", {"execution": "parallel"}), "hbll, paths any": ("hbll", {"paths": "any"}),
    }  # fmt: skip
    made = {side: rules.make(name, family="layered", **options) for side, (name, options) in sides.items()}
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(7):
        batch = next(source)
        for side, rule in made.items():
            model.zero_grad()
            began = time.process_time()
            depth = rule.step(model, batch, progress=0.5).metrics["depth"]
            spent[side].append(1e3 * (time.process_time() - began))
            if len(spent[side]) == 7:
                print(f"| {side} | {statistics.median(spent[side][2:]):.0f} ms | {depth:.0f} calls |", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", choices=["vit", "gpt"])
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--seed", type=int, default=100)
    p.add_argument("--cost", action="store_true")
    a = p.parse_args()
    a.hidden, a.context, a.nodes = 64, 64, "gaussian"
    torch.set_num_threads(1)
    model = build(a, "hbll", a.seed)
    rule = rules.make("hbll", family="layered")
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, weight_decay=0.01)
    size = 16 if a.task == "gpt" else 64
    source = batches(a.task, size, a.context, torch.Generator().manual_seed(1000 + a.seed))
    print("| updates | exact states, whole credit: cosine (sweeps + corrections, calls) | the run's discount "
          "| states by sweeps, whole credit | the run's discount |\n|---|---|---|---|---|")  # fmt: skip
    for i in range(a.steps + 1):
        progress = i / a.steps
        if i % max(1, a.steps // 4) == 0:
            held = rule.trainer.credit.state_dict()
            print(f"| {i} | {measure(model, next(source), held, progress)} |", flush=True)
        if i == a.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1.0, (i + 1) / 50) * (1 - progress)
        optimizer.zero_grad()
        rule.step(model, next(source), progress=progress)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if a.cost:
        cost(model, source)


if __name__ == "__main__":
    main()
