"""Tasks of the Chomsky hierarchy by the protocol of arXiv:2207.02098: trained on lengths to 40, tested on 41 to 500.

    python -m benchmarks.chomsky --tasks parity_check cycle_navigation --rules hbll bptt torch --seeds 100 101

One layer of 64 units, `timescale=None`, batch 64, 2,000 updates at 4e-3, fresh inputs (the paper: 256 units, batch 128,
10^6 updates, the best of three rates and ten seeds). Held out: 1,024 inputs of 41 to 500 symbols, lengths uniform, so
`accuracy` is the mean over lengths, and 1,024 of 1 to 40 (`accuracy_trained`). Tasks with one answer: hbll's discount
is 1 there, its gradient BPTT's. Each run appends a record to `benchmarks/results/chomsky.jsonl`.
"""

import argparse
from typing import Any

import hbll_seq as hs
from benchmarks.results import append, done
from benchmarks.rule_runs import RULES, Phase, right, train
from hbll_seq.datasets.chomsky import NAMES

SHORT, LONG = (1, 40), (41, 500)


def run(task: str, cell: str, rule: str, seed: int, settings: dict[str, Any]) -> None:
    """One run, unless it is on record."""
    options = {"cell": cell, **settings}
    if done("chomsky", task=task, rule=rule, seed=seed, options=options):
        return

    def inputs(lengths: tuple[int, int], n: int, stream: int) -> hs.datasets.Sequences:
        shortest, longest = lengths
        return hs.datasets.load("chomsky", task=task, shortest=shortest, longest=longest, n=n, seed=10 * seed + stream)

    data = inputs(SHORT, settings["batch"] * settings["steps"], 1)
    tests = {"accuracy": inputs(LONG, 1024, 8), "accuracy_trained": inputs(SHORT, 1024, 9)}

    def measure(model: hs.models.SequenceModel) -> dict[str, float]:
        return {name: float(right(model, test).sum() / (test.y >= 0).sum()) for name, test in tests.items()}

    model = hs.models.SequenceModel(
        data.input_size, data.classes, hidden=settings["hidden"], cell=cell, task=data.task,
        timescale=settings["timescale"], seed=seed,
    )  # fmt: skip
    phase = Phase(data, settings["steps"], settings["lr"], settings["batch"])
    figures, curve = train(model, rule, [phase], seed, measure=measure, every=settings["steps"] // 8)
    figures |= measure(model)
    append(dict(benchmark="chomsky", task=task, rule=rule, seed=seed, options=options, figures=figures, curve=curve))
    print(task, cell, rule, seed, {k: round(v, 4) for k, v in figures.items()}, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tasks", nargs="*", default=list(NAMES), choices=NAMES)
    p.add_argument("--cells", nargs="*", default=["gru"], choices=("gru", "lstm", "elman", "mingru"))
    p.add_argument("--rules", nargs="*", default=["hbll"], choices=tuple(RULES))
    p.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102, 103, 104])
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--timescale", type=float, help="longest memory of the initialisation; PyTorch's own if not given")
    a = p.parse_args()
    settings = dict(hidden=64, timescale=a.timescale, batch=64, steps=a.steps, lr=a.lr)
    for task in a.tasks:
        for cell in a.cells:
            for rule in a.rules:
                for seed in a.seeds:
                    run(task, cell, rule, seed, settings)


if __name__ == "__main__":
    main()
