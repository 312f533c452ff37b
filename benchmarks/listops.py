"""ListOps with a fixed budget of CPU time a rule: nested lists of 500 to 2,000 symbols, one answer after the last.

    python -m benchmarks.listops --rules hbll bptt --seeds 1 --budget 50 --lr 1e-3 2e-3 4e-3     choose the rate
    python -m benchmarks.listops --rules hbll bptt torch tbptt --seeds 100
    python -m benchmarks.listops --rules guess --seeds 100      the best guess from the outermost operator, no network

Embedding and one GRU layer of 128 units, a model's default initialisation, Adam, batch 16. Training stops after the
budget, in CPU seconds of one thread inside updates; the rate falls linearly over it, to zero, by the same clock. So a
rule twice as fast makes twice as many updates. Expressions are those of the Long Range Arena's grammar (its files are
not here): 20,000 to train on in place of 96,000, 500 for the curve, 2,000 for `accuracy`, other draws for every seed.

Each run appends a record to `benchmarks/results/listops.jsonl`, with a seed below 100 to `listops-grid.jsonl`; what is
there is not run again.
"""

import argparse
import functools
import statistics
import time
from typing import Any

import torch

import hbll_seq as hs
from benchmarks.results import append, done
from benchmarks.rule_runs import RULES, Clock, Measure, gap, inputs, right, rows

GUESS = "guess"  # the rule without a network
LARGEST = 10**6  # updates; the budget ends a run before


class Budget(Clock):
    """CPU seconds inside updates, which end the run; held-out figures at equal shares of them."""

    def __init__(self, measure: Measure, seconds: float, points: int = 6) -> None:
        super().__init__(measure, every=LARGEST)
        self._seconds, self._points = seconds, points

    def left(self, update: int) -> float:
        """The share of the budget that is left, whatever the number of the update: a schedule."""
        return max(0.0, 1 - self.spent / self._seconds)

    def on_step_end(self, run: hs.History, step: int) -> bool:
        self.times.append(time.process_time() - self._mark)
        over = self.spent >= self._seconds
        if over or self.spent >= (len(self.curve) + 1) * self._seconds / self._points:
            self.curve.append({"step": len(self.times), "seconds": round(self.spent, 2), **self._measure(run.model)})
        self._mark = time.process_time()
        return over


@functools.lru_cache(maxsize=3)
def expressions(n: int, seed: int) -> hs.datasets.Sequences:
    return hs.datasets.load("listops", n=n, seed=seed)


def guesses(data: hs.datasets.Sequences, test: hs.datasets.Sequences) -> torch.Tensor:
    """Where the value that is most frequent in `data` under the outermost operator is right, `(n,)`."""
    counts = torch.zeros(data.input_size, data.classes, dtype=torch.int64)
    counts.index_put_((data.x[:, 0], data.y), torch.ones(len(data), dtype=torch.int64), accumulate=True)
    return counts.argmax(1)[test.x[:, 0]] == test.y


def run(rule: str, seed: int, settings: dict[str, Any], sizes: tuple[int, int, int] = (20_000, 500, 2_000)) -> None:
    """One run, unless it is on record; `sizes` are the numbers of expressions to train on, for the curve, for the test."""
    benchmark = "listops" if seed >= 100 else "listops-grid"
    given = dict(benchmark=benchmark, task="ListOps, 500 to 2,000 symbols", rule=rule, seed=seed, options=settings)
    if done(**given):
        return
    data, curve, test = (expressions(n, 10 * seed + stream) for n, stream in zip(sizes, (1, 8, 9), strict=True))
    if rule == GUESS:
        append({**given, "figures": {"accuracy": float(guesses(data, test).float().mean())}})
        return

    def measure(model: hs.models.SequenceModel) -> dict[str, float]:
        return {"accuracy": float(right(model, curve).float().mean())}

    model = hs.models.SequenceModel(
        data.input_size, data.classes, hidden=settings["hidden"], cell="gru", task=data.task, seed=seed
    )
    name, options = RULES[rule]
    clock, made = Budget(measure, settings["budget"]), hs.rules.make(name, **options)
    hs.fit(
        model, inputs(data), data.y, rule=made, steps=LARGEST, batch_size=settings["batch"], lr=settings["lr"], seed=seed,
        schedule=clock.left, progress=False, callbacks=[clock],
    )  # fmt: skip
    figures = {
        "accuracy": float(right(model, test).float().mean()), "updates": len(clock.times),
        "seconds": round(clock.spent, 2), "ms": round(1e3 * statistics.median(clock.times), 3),
        "chain_gap": gap(model, made, rows(test, slice(settings["batch"]))),
    }  # fmt: skip
    append({**given, "figures": figures, "curve": clock.curve})
    print(rule, seed, settings["lr"], figures, [round(p["accuracy"], 3) for p in clock.curve], flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rules", nargs="*", default=["hbll"], choices=(*RULES, GUESS))
    p.add_argument("--seeds", type=int, nargs="*", default=[100])
    p.add_argument("--budget", type=float, default=300.0, help="CPU seconds inside updates, of each rule")
    p.add_argument("--lr", type=float, nargs="*", default=[1e-3])
    a = p.parse_args()
    for seed in a.seeds:
        for lr in a.lr:
            for rule in a.rules:
                run(rule, seed, dict(cell="gru", hidden=128, batch=16, budget=a.budget, lr=lr))


if __name__ == "__main__":
    main()
