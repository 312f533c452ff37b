"""What the first sweeps and corrections tell about the rest, and what tells that rounding decides.

    python -m benchmarks.rates [--models ...] [--steps 512 2048] [--batch 1 8] [--blocks 4 16 64] [--seeds 0 1 2]
    python -m benchmarks.rates --report

The first form lets sweeps and corrections go on until they are exact, with no limit, and keeps all residuals: of a rule's
first step, and of its fourth, when the cell's carry has been calibrated. Beside them stand the growth of the
messages over the blocks, and the cosine of the exact gradient in float32 to that in float64. Lines are added to
`benchmarks/out/rates.jsonl`. It uses the rule's insides (records and controller) as of 2026-11-28. `--report`
tries rules for giving up on the lines so far, and prints what they get right and wrong.
"""

import argparse
import json
import math
import pathlib
import statistics
from typing import Any

import torch

from benchmarks.dynamics import apart, cosine, exact, gradient, hbll
from benchmarks.dynamics_models import ALL, build, data
from hbll_seq.models import SequenceModel

OUT = pathlib.Path(__file__).parent / "out" / "rates.jsonl"
FAR = 1e-9  # relative residual at which nothing is left to do


def growth(messages: torch.Tensor) -> float:
    """How many times the norm of a message grows on its way back at most: over i < j, of message i over message j.

    Args:
        messages: `(n+1, B, S)`, zero at the end of the last block.
    """
    sizes = messages[1:-1].double().norm(dim=-1)  # (n-1, B), boundaries between blocks
    if not len(sizes):
        return 1.0
    if not torch.isfinite(sizes).all():
        return float("inf")
    least = sizes.flip(0).cummin(0).values.flip(0).clamp(min=1e-300)
    return float((sizes / least).max())


def solve(name: str, model: SequenceModel, t: int, b: int, n: int, seed: int) -> list[dict[str, Any]]:
    """The lines of one shape: of the first step, and of a later one."""
    batch = data(name, b, t, 10 * seed)
    truth, own = exact(model, batch, torch.float64), exact(model, batch, torch.float32)
    common: dict[str, Any] = dict(model=name, T=t, B=b, n=n, seed=seed, rounding=cosine(own, truth),
        rounding_error=apart(own, truth), norm=float(truth.norm()))  # fmt: skip
    lines = []
    for phase in ("first", "later"):
        options = dict(
            execution="parallel", block_size=t // n, execution_block=t // n, check_every=0, carry="calibrated"
        )
        rule = hbll(model, **options)
        if phase == "later":
            for i in range(1, 4):
                gradient(model, data(name, b, t, 10 * seed + i), rule)
        c = rule.controller
        c.tolerance, c.initial, c.feedback_tolerance, c.most = FAR, FAR, FAR, n + 1
        c.pull, rule.keep_solutions = 0.0, True
        found, _ = gradient(model, batch, rule)
        record = rule.records[0]
        lines.append(dict(
            **common, phase=phase, cosine=cosine(found, truth), cosine32=cosine(found, own),
            residuals=record.residuals, feedback=record.feedback_residuals, growth=growth(record.feedback.messages),
        ))  # fmt: skip
    return lines


def needed(residuals: list[float], tolerance: float) -> int:
    """The first index at which a residual is within tolerance; one past the end where none is."""
    return next((i for i, r in enumerate(residuals) if r <= tolerance), len(residuals))


def collect(a: argparse.Namespace) -> None:
    OUT.parent.mkdir(exist_ok=True)
    for name in a.models:
        model = build(name)
        for t in a.steps:
            for b in a.batch:
                for n in a.blocks:
                    for seed in a.seeds:
                        lines = solve(name, model, t, b, n, seed)
                        with OUT.open("a") as file:
                            file.writelines(json.dumps(line) + "\n" for line in lines)
                    s, f = (needed(lines[-1][k], tol) for k, tol in (("residuals", 3e-4), ("feedback", 1e-3)))
                    print(f"{name} T={t} B={b} n={n}: sweeps {s}, corrections {max(f - 1, 0)}, growth "
                          f"{lines[-1]['growth']:.1e}, float32's own cosine {lines[-1]['rounding']:.4f}", flush=True)  # fmt: skip


def more(residuals: list[float], seen: int, tolerance: float, slowest: bool) -> float:
    """How many iterations in all a geometric series through what has been seen would take.

    Args:
        residuals: of the start and of every iteration.
        seen: iterations done.
        tolerance: aimed at.
        slowest: go by the slower of the last two ratios, in place of the last.
    """
    r = residuals[: seen + 1]
    if r[-1] <= tolerance:
        return seen
    ratios = [q / p if p > 0 else 1.0 for p, q in zip(r[:-1], r[1:], strict=True)]
    ratio = max(ratios[-2:]) if slowest else ratios[-1]
    return math.inf if not ratio < 1 else seen + math.log(tolerance / r[-1]) / math.log(ratio)


def score(lines: list[dict[str, Any]], kind: str, tolerance: float, most: int) -> None:
    """One row for every rule: what it gave up though it would have agreed in time, and what it went on with in vain."""
    shift = 1 if kind == "feedback" else 0  # the first two passes of the messages are made anyway
    cases = [(line, [float(r) for r in line[kind]]) for line in lines if line["n"] > most + 1]
    cases = [(line, r) for line, r in cases if len(r) > 1 + shift and all(map(math.isfinite, r))]
    good = [needed(r, tolerance) - shift <= most for _, r in cases]
    print(f"\n{kind}, tolerance {tolerance:.0e}, at most {most}: {len(cases)} cases, {sum(good)} agree in time\n")
    print("| looks after | rule | gave up wrongly | went on in vain | of those, gave up at |\n|---|---|---|---|---|")
    for seen in (1, 2, 3):
        for label, slowest, slack in (("last ratio", False, 1.0), ("last ratio, 1.5 times as many", False, 1.5),
                                      ("last ratio, twice as many", False, 2.0), ("slower ratio", True, 1.0),
                                      ("no progress: ratio above 1/2", False, 0.0)):  # fmt: skip
            wrong = vain = stopped = 0
            for (_, r), fine in zip(cases, good, strict=True):
                at = min(seen + shift, len(r) - 1)
                if slack:
                    stop = more(r, at, tolerance, slowest) - shift > slack * most
                else:
                    stop = r[at] > tolerance and r[at] > 0.5 * r[at - 1]
                wrong, vain, stopped = wrong + (stop and fine), vain + (not stop and not fine), stopped + stop
            print(f"| {seen} | {label} | {wrong} of {sum(good)} | {vain} of {len(cases) - sum(good)} | {stopped} |")


def report() -> None:
    """All of it, on the lines so far."""
    lines = [json.loads(text) for text in OUT.read_text().splitlines()]
    for most in (8, 4):
        score(lines, "residuals", 3e-4, most)
        score(lines, "feedback", 1e-3, most)
    print(
        "\n| model | n | sweeps, first step | later | corrections, first | later | growth of messages | float32's own |"
    )
    print("|---" * 8 + "|")
    for name in dict.fromkeys(line["model"] for line in lines):
        for n in sorted({line["n"] for line in lines}):
            cells = []
            here = [line for line in lines if line["model"] == name and line["n"] == n]
            for kind, tolerance, shift in (("residuals", 3e-4, 0), ("feedback", 1e-3, 1)):
                for phase in ("first", "later"):
                    found = [max(needed(line[kind], tolerance) - shift, 0) for line in here if line["phase"] == phase]
                    cells.append(f"{statistics.median(found):.0f} ({min(found)}..{max(found)})" if found else "")
            cells.append(f"{statistics.median(line['growth'] for line in here):.0e}" if here else "")
            cells.append(f"{min(line['rounding'] for line in here):.4f}" if here else "")
            print(f"| {name} | {n} | " + " | ".join(cells) + " |")


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--models", nargs="+", default=list(ALL), choices=list(ALL))
    p.add_argument("--steps", type=int, nargs="+", default=[512, 2048])
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    p.add_argument("--blocks", type=int, nargs="+", default=[4, 16, 64])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the data")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--report", action="store_true")
    a = p.parse_args()
    if a.report:
        report()
        return
    torch.set_num_threads(a.threads)
    collect(a)


if __name__ == "__main__":
    main()
