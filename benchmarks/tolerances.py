"""When is "within tolerance" near enough? Cosines to the exact gradient, by the two tolerances.

    python -m benchmarks.tolerances [--models latch text-gru ...] [--worst]

Sweeps and corrections are not limited, so a row's cosine is what its tolerance is worth. First messages, at exact states;
then states, with messages to 1e-4. T = 512 (B = 1 and 8) and 4096 (B = 1), 16 and 64 blocks, three batches. `--worst` tries
another measure of the states: the largest relative gap of any boundary of any sequence in place of the mean over all
(it replaces the solver's `inconsistency` while it runs).
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.dynamics import ENOUGH, cosine, exact, gradient, hbll, never_give_up, solver
from benchmarks.dynamics_models import ALL, build, data
from hbll_seq.models import SequenceModel

MODELS = ["latch", "latch-loop", "counter", "text-gru", "text-lstm", "elman-1.5", "gru-x6"]
SHAPES = [(512, 1), (512, 8), (4096, 1)]


def worst(gap: Tensor, end: Tensor, valid: Tensor | None) -> float:
    """The largest relative gap of one boundary of one sequence; arguments as for `solve.inconsistency`."""
    if valid is not None:
        raise ValueError("lengths: got sequences of unequal lengths; expected equal ones")
    return float(gap.square().mean(-1).max() / end.flatten(0, 1).var(0, correction=0).mean().clamp(min=1e-12))


def cell(found: list[tuple[float, float]]) -> str:
    bad = sum(not c >= ENOUGH for c, _ in found)
    return f"{min(c for c, _ in found):.4f}, {bad} of {len(found)}, {statistics.mean(k for _, k in found):.1f}"


def table(a: argparse.Namespace, kind: str, columns: dict[str, tuple[Callable[..., float], dict[str, Any]]]) -> None:
    print(
        f"\n{kind}: the least cosine, how many are below {ENOUGH}, mean {kind}\n\n| model | "
        + " | ".join(columns)
        + " |"
    )
    print("|---" * (1 + len(columns)) + "|")
    for name in a.models:
        model = build(name)
        found: dict[str, list[tuple[float, float]]] = {column: [] for column in columns}
        for t, b in SHAPES:
            for seed in a.seeds:
                batch = data(name, b, t, seed)
                truth = exact(model, batch, torch.float64)
                for n in (16, 64):
                    for column, (measure, options) in columns.items():
                        found[column].append(one(model, batch, truth, t // n, n, kind, measure, options))
        print(f"| {name} | " + " | ".join(cell(found[column]) for column in columns) + " |", flush=True)


def one(
    model: SequenceModel, batch: Any, truth: Tensor, block: int, n: int, kind: str,
    measure: Callable[..., float], options: dict[str, Any],
) -> tuple[float, float]:  # fmt: skip
    """Cosine, and sweeps or corrections, of one step."""
    rule = hbll(model, execution="parallel", block_size=block, execution_block=block, most=n, check_every=0, **options)
    module = solver()
    old, module.inconsistency = module.inconsistency, measure
    try:
        got, metrics = gradient(model, batch, rule)
    finally:
        module.inconsistency = old
    return cosine(got, truth), float(metrics[kind])


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=MODELS, choices=list(ALL))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the data")
    p.add_argument("--worst", action="store_true")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    never_give_up()
    mean = solver().inconsistency
    messages = {f"{t:.0e}": (mean, dict(tolerance=1e-8, feedback_tolerance=t)) for t in (1e-3, 3e-4, 1e-4, 1e-5)}
    states = {f"mean {t:.0e}": (mean, dict(tolerance=t, feedback_tolerance=1e-4)) for t in (3e-4, 1e-4, 3e-5)}
    if a.worst:
        states |= {f"worst {t:.0e}": (worst, dict(tolerance=t, feedback_tolerance=1e-4)) for t in (1e-2, 3e-3, 1e-3)}
    table(a, "corrections", messages)
    table(a, "sweeps", states)


if __name__ == "__main__":
    main()
