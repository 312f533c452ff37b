"""How many sweeps and corrections a dense GRU and LSTM need, over the length of the sequence.

    python -m benchmarks.sweep_counts [--models fresh-gru text-gru ...] [--steps 256 ... 131072] [--most 127]
        [--seeds 0 1 2] [--block auto]

One sequence, `execution="parallel"`, `discount=1`, the default tolerances and block size. Models are untrained, trained on text (600 steps of tiny Shakespeare, T=256) or trained on the word problem of S5
(`benchmarks/dynamics_models.py`); weights stay as they are. "First" is a rule's first step, "later" its fifth on
sequences like it, when the cell's carry has been calibrated. n - 1 sweeps are exact whatever the dynamics, so a count near
the number of blocks says that nothing was gained. Medians over seeds. Rows go to `benchmarks/out/sweep_counts.jsonl` too.
"""

import argparse
import json
import pathlib
import statistics
from typing import Any

import torch

from benchmarks.dynamics import gradient, hbll, insides, never_give_up
from benchmarks.dynamics_models import ALL, build, data
from hbll_seq.models import SequenceModel

OUT = pathlib.Path(__file__).parent / "out" / "sweep_counts.jsonl"
MODELS = ["fresh-gru", "fresh-lstm", "text-gru", "text-lstm", "s5", "s5-lstm"]
LATER = 5  # the step whose counts are called later


def counts(name: str, model: SequenceModel, t: int, seed: int, block: int | str, most: int) -> dict[str, Any]:
    """What the first and a later step of a fresh rule needed."""
    rule = hbll(model, execution="parallel", block_size=block, execution_block=block, most=most, check_every=0)
    found: list[dict[str, Any]] = []
    blocks = 0
    for i in range(LATER):
        batch = data(name, 1, t, 100 * seed + i)
        _, m = gradient(model, batch, rule)
        record = insides(rule).records[0]
        end = getattr(record, "end", None)
        blocks = blocks if end is None else len(end)
        found.append({**m, "needed": needed(record, "residuals", float(m.get("tolerance", 3e-4)), m["sweeps"])})
    first, later = found[0], found[-1]
    return dict(
        model=name, T=t, seed=seed, blocks=blocks, first_sweeps=first["sweeps"], later_sweeps=later["needed"],
        first_corrections=first["corrections"], later_corrections=later["corrections"],
        inconsistency=later["inconsistency"], feedback_residual=later["feedback_residual"],
        schedule=later.get("schedule"),
    )  # fmt: skip


def needed(record: Any, kind: str, tolerance: float, otherwise: float) -> float:
    """Iterations after which a residual first met the tolerance."""
    return float(next((i for i, r in enumerate(getattr(record, kind, [])) if r <= tolerance), otherwise))


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=MODELS, choices=list(ALL))
    p.add_argument("--steps", type=int, nargs="+", default=[2**i for i in range(8, 18)])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the data")
    p.add_argument("--block", type=lambda s: s if s == "auto" else int(s), default="auto")
    p.add_argument("--most", type=int, default=127)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    never_give_up()
    OUT.parent.mkdir(exist_ok=True)
    print("| model | T | blocks | sweeps, first | later | corrections, first | later | ran |\n" + "|---" * 8 + "|")
    for name in a.models:
        model = build(name)
        for t in a.steps:
            rows = [counts(name, model, t, seed, a.block, a.most) for seed in a.seeds]
            keys = ("blocks", "first_sweeps", "later_sweeps", "first_corrections", "later_corrections")
            middle = [f"{statistics.median(r[k] for r in rows):.0f}" for k in keys]
            print(f"| {name} | {t} | " + " | ".join(middle) + f" | {rows[0]['schedule'] or ''} |", flush=True)
            with OUT.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
