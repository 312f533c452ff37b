"""What the first sweeps and corrections tell about the rest, and what tells that rounding decides.

    python -m benchmarks.rates [--models ...] [--steps 512 2048] [--batch 1 8] [--blocks 4 16 64] [--seeds 0 1 2]
    python -m benchmarks.rates --report

The first form lets sweeps and corrections go on until they are exact, with no limit, and keeps all residuals: of a rule's
first step, and of its fourth, when the cell's carry has been calibrated. Beside them stand the growth of the
messages over the blocks, and the cosine of the exact gradient in float32 to that in float64. Lines are added to
`benchmarks/out/rates.jsonl`. Kept solutions go by exact boundaries now, so new lines have no residuals of states; those
of the note are from before. `--report` tries rules for giving up on the lines so far, and prints what they get right and
wrong.
"""

import argparse
import json
import math
import pathlib
import statistics
from collections import Counter
from typing import Any

import torch

from benchmarks.dynamics import apart, cosine, exact, gradient, hbll, never_give_up
from benchmarks.dynamics_models import ALL, build, data
from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.engine import Engine, Options
from hbll_seq.models import SequenceModel
from hbll_seq.models.recurrent import sequential
from hbll_seq.rules.execute import forward_backward, train

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


def amplified(model: SequenceModel, batch: Batch, messages: torch.Tensor) -> float:
    """How many times longer a message is than it could be if no step of the chain expanded anything.

    A message is a sum over later steps of what the loss asks of that step's output, carried back. If carrying never
    expands, it is at most the sum of the norms of these. So more than 1 means that something expanded, by that factor at
    least. The largest over boundaries and sequences.
    """
    kept: list[torch.Tensor] = []

    def execute(
        layer: int, cell: Cell, x: torch.Tensor, state: torch.Tensor, lengths: Any, *, end: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, last = sequential(layer, cell, x, state, lengths)
        out.retain_grad()
        kept.append(out)
        return out, last

    forward_backward(model, batch, execute)
    model.zero_grad()
    assert kept[-1].grad is not None
    asked = kept[-1].grad.double().norm(dim=-1).sum(1)  # (B,)
    sizes = messages[1:-1].double().norm(dim=-1)
    if not torch.isfinite(sizes).all():
        return math.inf
    return float((sizes / asked).max())


def solve(name: str, model: SequenceModel, t: int, b: int, n: int, seed: int) -> list[dict[str, Any]]:
    """The lines of one shape: of the first step, and of a later one."""
    batch = data(name, b, t, 10 * seed)
    truth, own = exact(model, batch, torch.float64), exact(model, batch, torch.float32)
    common: dict[str, Any] = dict(model=name, T=t, B=b, n=n, seed=seed, rounding=cosine(own, truth),
        rounding_error=apart(own, truth), norm=float(truth.norm()))  # fmt: skip
    lines = []
    for phase in ("first", "later"):
        options = dict(
            execution="parallel",
            block_size=t // n,
            execution_block=t // n,
            carry="calibrated",
            most=n + 1,
        )
        rule = hbll(model, **options, check_every=0)
        if phase == "later":
            for i in range(1, 4):
                gradient(model, data(name, b, t, 10 * seed + i), rule)
        engine = Engine(Options(**options, tolerance=FAR, feedback_tolerance=FAR, pull=0.0, discount=1.0))
        engine.load_state_dict({**rule.state_dict(), "tolerance": FAR})
        model.zero_grad()
        train(model, batch, engine, t // n, 1.0, keep=True)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        found = torch.cat([g.flatten().double() for g in grads])
        record = engine.records[0]
        assert record.feedback is not None
        lines.append(dict(
            **common, phase=phase, cosine=cosine(found, truth), cosine32=cosine(found, own),
            residuals=record.residuals, feedback=record.feedback_residuals, growth=growth(record.feedback.messages),
            amplified=amplified(model, batch, record.feedback.messages),
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


def left(r: list[float], done: int, tolerance: float, rate: str) -> float:
    """How many iterations more a geometric series takes from residual `done` to the tolerance.

    Args:
        r: residuals of the start and of every iteration.
        done: iterations done, at least 1.
        tolerance: aimed at.
        rate: "last" ratio, or the "better" of that and the mean of the last two.
    """
    ratio = r[done] / r[done - 1]
    if rate == "better" and done > 1:
        ratio = min(ratio, math.sqrt(r[done] / r[done - 2]))
    return math.inf if ratio >= 1 else math.log(tolerance / r[done]) / math.log(ratio)


def tried(r: list[float], tolerance: float, most: int, first: int, rate: str) -> tuple[int, bool]:
    """Iterations done, and whether it gave up, by the rule: asked after every iteration from the `first` on."""
    done = 0
    while done < len(r) and r[done] > tolerance:
        if done >= most or (done >= first and left(r, done, tolerance, rate) > most - done):
            return done, True
        done += 1
    return done, done >= len(r)


def score(lines: list[dict[str, Any]], kind: str, tolerance: float, most: int) -> None:
    """One row for every rule: what it gave up though it would have agreed in time, and what it went on with in vain."""
    shift = 1 if kind == "feedback" else 0  # the first two passes of the messages are made anyway
    pairs = [(line["model"], line[kind][shift:]) for line in lines if line["n"] > most + 1 and line["T"] >= 512]
    pairs = [(name, r) for name, r in pairs if len(r) > 1 and all(map(math.isfinite, r))]
    cases = [r for _, r in pairs]
    need = [needed(r, tolerance) for r in cases]
    good = sum(n <= most for n in need)
    print(f"\n{kind}, tolerance {tolerance:.0e}, at most {most}: {len(cases)} cases, {good} agree in time\n")
    print("| asks from | rate | gave up wrongly | went on to the end in vain | mean number done | wrongly: models |")
    print("|---" * 6 + "|")
    for first, rate in ((1, "last"), (1, "better"), (2, "last"), (2, "better"), (3, "last"), (3, "better"), (most, "never")):  # fmt: skip
        found = [tried(r, tolerance, most, first, rate) for r in cases]
        wrong = [stop and n <= most for (_, stop), n in zip(found, need, strict=True)]
        vain = sum(stop and done >= most for done, stop in found)
        which = Counter(name for (name, _), w in zip(pairs, wrong, strict=True) if w)
        spent = statistics.mean(done for done, _ in found)
        said = ", ".join(f"{name} {k}" for name, k in which.most_common())
        print(f"| {first} | {rate} | {sum(wrong)} of {good} | {vain} of {len(cases) - good} | {spent:.1f} | {said} |")


def rounding(lines: list[dict[str, Any]]) -> None:
    """How far the exact float32 gradient is off, by the amplification of the messages."""
    known = [line for line in lines if "amplified" in line and line["phase"] == "later"]
    print("\n| messages amplified | cases | models | float32's own error: median (least..most) | more than 5 % off |")
    print("|---" * 5 + "|")
    edges = [0, 1, 3, 10, 30, 100, 300, 1e3, 1e4, 1e6, math.inf]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        here = [x for x in known if low <= x["amplified"] < high or (x["amplified"] == high == math.inf)]
        if here:
            errors = sorted(x["rounding_error"] if math.isfinite(x["rounding_error"]) else math.inf for x in here)
            models = ", ".join(dict.fromkeys(x["model"] for x in here))
            off = sum(not e <= 0.05 for e in errors)
            print(f"| {low:g} .. {high:g} | {len(here)} | {models} | {errors[len(errors) // 2]:.1e} "
                  f"({errors[0]:.1e}..{errors[-1]:.1e}) | {off} |")  # fmt: skip


def report() -> None:
    """All of it, on the lines so far."""
    every = [json.loads(text) for text in OUT.read_text().splitlines()]
    keys = ("model", "T", "B", "n", "seed", "phase")
    lines = list({tuple(line[key] for key in keys): line for line in every}.values())  # the last of every kind
    for states, messages in ((3e-4, 1e-3), (3e-5, 3e-4)):
        score(lines, "residuals", states, 8)
        score(lines, "feedback", messages, 8)
    rounding(lines)
    print("\n| model | n | sweeps, first step | later | corrections, first | later | messages grow | amplified |")
    print("|---" * 8 + "|")
    for name in dict.fromkeys(line["model"] for line in lines):
        for n in sorted({line["n"] for line in lines}):
            cells = []
            here = [line for line in lines if line["model"] == name and line["n"] == n and line["T"] >= 512]
            if not here:
                continue
            for kind, tolerance, shift in (("residuals", 3e-4, 0), ("feedback", 1e-3, 1)):
                for phase in ("first", "later"):
                    found = [max(needed(line[kind], tolerance) - shift, 0) for line in here if line["phase"] == phase]
                    cells.append(f"{statistics.median(found):.0f} ({min(found)}..{max(found)})" if found else "")
            cells.append(f"{statistics.median(line['growth'] for line in here):.0e}")
            force = [line["amplified"] for line in here if "amplified" in line]
            cells.append(f"{statistics.median(force):.0e}" if force else "")
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
    never_give_up()
    collect(a)


if __name__ == "__main__":
    main()
