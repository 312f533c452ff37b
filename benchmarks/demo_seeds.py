"""The figures of `make demo` with seeds that no choice was made on, as records of `benchmarks.results`.

    python -m benchmarks.demo_seeds [--seeds 100 101 102 103 104] [--sides hbll bptt nn.GRU]
    python -m benchmarks.demo_seeds --times --threads 2     milliseconds an update, all sides alternating

Runs what `benchmarks.demo` runs, by its functions: held-out bits a character, sequential depth, and for hbll the
cosine of its gradient to BPTT's as at the first and the last update. With `--times` a "seed" is the number of the
repetition; the weights and windows are the same in each, so only the machine differs.
"""

import statistics
from typing import Any

import torch

import hbll_seq as hs
from benchmarks.demo import SIDES, cosines, parser, seconds_per_step, train
from benchmarks.results import append, done

TOLD = {"nn.GRU": "torch"}  # sides as records name them


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102, 103, 104])
    p.add_argument("--sides", nargs="*", default=list(SIDES), choices=tuple(SIDES))
    p.add_argument("--times", action="store_true")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    text = hs.datasets.load("pydoc")
    options = dict(hidden=a.hidden, batch=a.batch, window=a.window)

    def keep(task: str, side: str, seed: int, options: dict[str, Any], figures: dict[str, float]) -> None:
        append(
            dict(benchmark="demo", task=task, rule=TOLD.get(side, side), seed=seed, options=options, figures=figures)
        )
        print(task, side, seed, {name: round(value, 5) for name, value in figures.items()}, flush=True)

    for seed in a.seeds:
        if a.times:
            for side, times in seconds_per_step(text, a.hidden, a.batch, a.window).items():
                keep(f"an update, {a.threads} threads", side, seed, options, {"ms": 1e3 * statistics.median(times)})
            continue
        trained = options | dict(steps=a.steps, lr=a.lr)
        for side in a.sides:
            if done("demo", task=f"{a.steps:,} updates", rule=TOLD.get(side, side), seed=seed, options=trained):
                continue
            model, run = train(text, side, a, seed)
            figures = {"bits": run.history["val_bits"][-1], "depth": statistics.median(run.history["depth"])}
            if side == "hbll":
                figures["cosine_first"], figures["cosine_last"] = cosines(text, model, a, seed)
            keep(f"{a.steps:,} updates", side, seed, trained, figures)


if __name__ == "__main__":
    main()
