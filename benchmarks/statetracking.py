"""State tracking: word problems of finite groups, trained short and tested to 8,192 time steps.

    python -m benchmarks.statetracking --groups S5 --rules hbll torch --seeds 100 101 102 103 104
    python -m benchmarks.statetracking --setting long --groups A5 --rules hbll --seeds 110 111 112 113 114
    python -m benchmarks.statetracking --setting long --cells lstm elman --rules hbll --seeds 110 111
    python -m benchmarks.statetracking --times      ms of an update at T = 2,048, batch 1, sides alternating

One layer of 128 units, embedding 128, `timescale=None`, Adam, fresh words, two phases: words of 64 symbols, then of 512.
Settings (`--setting`), chosen on seeds below 100, on S5 by hbll:

* "many" (the default): 3,200 updates of 16 words at a peak rate of 4e-3, then 800 of 4 words at 5e-4 with gradients
  clipped at 0.1; credit blocks of 8 time steps for hbll and of 16 for truncated BPTT, the best of 4, 8 and 16 for each.
* "long": the same with 2,400 updates in the second phase, not tuned.
* "few", the first one: 1,600 updates of 32 words, then 200 at 5e-4; blocks of 16, then of 128.

Held out: 32 fresh words of every test length. `accuracy_T` is the share of all T answers that are right, `end_T` that
of the last 64. Each run appends a record to `benchmarks/results/statetracking.jsonl`; what is there is not run again.
"""

import argparse
import statistics
import time
from typing import Any

import torch

import hbll_seq as hs
from benchmarks.results import append, done
from benchmarks.rule_runs import RULES, Phase, right, train
from hbll_seq.data.batch import Batch
from hbll_seq.datasets.groups import GROUPS

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
LAST = 64
# Of a phase: updates, symbols of a word, peak rate; words of an update (else `batch`), the norm gradients are clipped at.
SETTINGS: dict[str, dict[str, Any]] = {
    "many": dict(phases=[[3200, 64, 4e-3, 16, 1.0], [800, 512, 5e-4, 4, 0.1]], blocks=dict(hbll=8, tbptt=16)),
    "long": dict(phases=[[3200, 64, 4e-3, 16, 1.0], [2400, 512, 5e-4, 4, 0.1]], blocks=dict(hbll=8, tbptt=16)),
    "few": dict(batch=32, phases=[[1600, 64, 4e-3], [200, 512, 5e-4]]),
}


def model_of(data: hs.datasets.Sequences, cell: str, seed: int, layers: int, timescale: float | None) -> Any:
    return hs.models.SequenceModel(
        data.input_size, data.classes, hidden=128, cell=cell, layers=layers, timescale=timescale, seed=seed
    )


def run(task: str, group: str, inputs: str, cell: str, rule: str, seed: int, settings: dict[str, Any]) -> None:
    """One run, unless it is on record."""
    options = {"cell": cell, **settings}
    block = options.pop("blocks", {}).get(RULES[rule][0])
    own = {} if block is None else {"block_size": block}
    options |= own
    if done("statetracking", task=task, rule=rule, seed=seed, options=options):
        return

    def words(steps: int, n: int, stream: int) -> hs.datasets.Sequences:
        return hs.datasets.load("words", group=group, inputs=inputs, steps=steps, n=n, seed=10 * seed + stream)

    phases, first = [], words(64, 1, 0)
    for number, (steps, length, lr, *rest) in enumerate(settings["phases"]):
        batch, clip = rest or (settings["batch"], 1.0)
        phases.append(Phase(words(length, batch * steps, 1 + number), steps, lr, batch, clip))
    tests = {length: words(length, 32, 9) for length in LENGTHS}

    def on_the_way(model: hs.models.SequenceModel) -> dict[str, float]:
        return {"accuracy_512": float(right(model, tests[512]).float().mean())}

    model = model_of(first, cell, seed, settings["layers"], settings["timescale"])
    figures, curve = train(
        model, rule, phases, seed, measure=on_the_way, every=sum(phase.steps for phase in phases) // 18, **own
    )
    for length, test in tests.items():
        hit = right(model, test).float()
        figures |= {f"accuracy_{length}": float(hit.mean()), f"end_{length}": float(hit[:, -LAST:].mean())}
    append(
        dict(benchmark="statetracking", task=task, rule=rule, seed=seed, options=options, figures=figures, curve=curve)
    )
    print(task, cell, rule, seed, {k: round(v, 4) for k, v in figures.items()}, flush=True)


def times(repeats: int = 9) -> None:
    """Milliseconds of an update of S5 at batch 1 and T = 2,048, sides alternating in one process."""
    data = hs.datasets.load("words", steps=2048, n=1)
    batch, sides = Batch(data.x, torch.tensor([2048]), data.y, None), {}
    for name in ("hbll", "bptt", "torch", "tbptt"):
        model = model_of(data, "gru", 0, 1, None)
        rule = hs.rules.make(RULES[name][0], **RULES[name][1])
        rule.setup(model, torch.Generator().manual_seed(0))
        sides[name] = (model, rule, torch.optim.Adam(model.parameters(), lr=1e-3), [])
    for i in range(repeats + 3):
        for model, rule, optimizer, spent in sides.values():
            start = time.process_time()
            hs.step(model, batch, rule, optimizer, progress=0.5)
            if i >= 3:
                spent.append(1e3 * (time.process_time() - start))
    for name, (*_, spent) in sides.items():
        figures = {"ms": round(statistics.median(spent), 3), "ms_least": round(min(spent), 3)}
        append(
            dict(
                benchmark="statetracking", task="time of an update, S5, 1 x 2,048", rule=name, seed=0, figures=figures,
                options=dict(cell="gru", hidden=128, batch=1, steps=2048, repeats=repeats),
            )
        )  # fmt: skip
        print(name, figures, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--groups", nargs="*", default=["S5"], choices=GROUPS)
    p.add_argument("--inputs", default="generators", choices=("generators", "all"))
    p.add_argument("--cells", nargs="*", default=["gru"], choices=("gru", "lstm", "elman", "mingru"))
    p.add_argument("--rules", nargs="*", default=["hbll"], choices=tuple(RULES))
    p.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102, 103, 104])
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--timescale", type=float, help="longest memory of the initialisation; PyTorch's own if not given")
    p.add_argument("--setting", default="many", choices=tuple(SETTINGS))
    p.add_argument("--times", action="store_true")
    a = p.parse_args()
    if a.times:
        return times()
    settings = dict(hidden=128, layers=a.layers, timescale=a.timescale, **SETTINGS[a.setting])
    for group in a.groups:
        for cell in a.cells:
            task = (
                group
                + {"lstm": ", LSTM", "elman": ", Elman"}.get(cell, "")
                + (", all inputs" if a.inputs == "all" else "")
                + (f", timescale {a.timescale:g}" if a.timescale else "")
                + {"many": ", many updates", "long": ", long second phase", "few": ""}[a.setting]
            )
            for rule in a.rules:
                for seed in a.seeds:
                    run(task, group, a.inputs, cell, rule, seed, settings)


if __name__ == "__main__":
    main()
