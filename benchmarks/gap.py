"""Gap to BPTT: held-out bits with the whole credit, `discount=1`, against exact BPTT, seed by seed, on three texts.

    python -m benchmarks.gap run [--texts tinyshakespeare pydoc stdlib] [--sides ...] [--seeds 100 101 102 103 104]
    python -m benchmarks.gap report      paired differences with their standard error
    python -m benchmarks.gap grid        the rate, by BPTT on seed 0

One GRU of 128 units on characters, windows of 256, batch 16, 200 updates of Adam with a rate that falls linearly to
zero. All sides of a seed have the same initialisation, windows and order. "hbll, discount 1" is the default schedule,
which on a CPU of two cores goes in order and has BPTT's gradient up to rounding; "at once" rolls all blocks at the same
time from boundaries that agree to the tolerance, and is where a gap could come from. "torch" is `nn.GRU`. Held out: the
first 60,000 characters of the text's test part (else of its valid part), read with one state, in bits a byte.
Each run appends a record to `benchmarks/results/gap.jsonl`; `gap` in it is the difference to "bptt" of the same seed.
"""

import argparse
import math
import statistics
from typing import Any, NamedTuple

import hbll_seq as hs
from benchmarks.results import append, done, read
from benchmarks.rule_runs import Clock

TEXTS = ("tinyshakespeare", "pydoc", "stdlib")
SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "bptt": ("bptt", {}),
    "hbll, discount 1": ("hbll", {"discount": 1.0}),
    "hbll, discount 1, at once": ("hbll", {"discount": 1.0, "execution": "parallel"}),
    "hbll": ("hbll", {}),
    "tbptt": ("tbptt", {}),
    "torch": ("bptt", {"kernels": "torch"}),
}
UPDATES, WINDOW, BATCH, HIDDEN, HELD = 200, 256, 16, 128, 60_000
RATE = 16e-3


class Side(NamedTuple):
    """One run: a rule's name and options on a text."""

    text: str
    name: str
    rule: tuple[str, dict[str, Any]]


def read_text(name: str) -> hs.datasets.Text:
    return hs.datasets.load(name, **({"limit_characters": 2_000_000} if name == "stdlib" else {}))


def run(side: Side, text: hs.datasets.Text, seed: int, lr: float, benchmark: str = "gap") -> None:
    """One run, unless it is on record."""
    options = dict(hidden=HIDDEN, steps=UPDATES, window=WINDOW, batch=BATCH, lr=lr, **side.rule[1])
    if done(benchmark, task=side.text, rule=side.name, seed=seed, options=options):
        return
    model = hs.models.LanguageModel(text.tokenizer, hidden=HIDDEN, seed=seed)
    clock = Clock(lambda model: {}, UPDATES + 1)
    hs.fit(
        model, text.train, rule=side.rule[0], window=WINDOW, batch_size=BATCH, steps=UPDATES, lr=lr, seed=seed,
        progress=False, callbacks=[clock], **side.rule[1],
    )  # fmt: skip
    held = (text.test if len(text.test) else text.valid)[:HELD]
    figures = {
        "bits": hs.evaluate(model, held)["bits_per_byte"],
        "seconds": round(clock.spent, 2),
        "ms": round(1e3 * statistics.median(clock.times), 3),
    }
    if rivals := read(benchmark, task=side.text, rule="bptt", seed=seed):
        figures["gap"] = figures["bits"] - rivals[-1]["figures"]["bits"]
    append(dict(benchmark=benchmark, task=side.text, rule=side.name, seed=seed, options=options, figures=figures))
    print(side.text, side.name, seed, lr, {name: round(value, 5) for name, value in figures.items()}, flush=True)


def differences(text: str, name: str) -> list[float]:
    """Bits of a side minus those of BPTT, by seed."""
    return [one["figures"]["gap"] for one in read("gap", task=text, rule=name) if "gap" in one["figures"]]


def report() -> None:
    """Print mean and standard error of the paired differences."""
    print("| text | side | seeds | gap, bits a byte | standard error |\n|---|---|---|---|---|")
    for text in TEXTS:
        for name in SIDES:
            gaps = differences(text, name)
            if name == "bptt" or len(gaps) < 2:
                continue
            error = statistics.stdev(gaps) / math.sqrt(len(gaps))
            print(f"| {text} | {name} | {len(gaps)} | {statistics.mean(gaps):+.5f} | {error:.5f} |")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("run", "report", "grid"))
    p.add_argument("--texts", nargs="*", default=list(TEXTS), choices=TEXTS)
    p.add_argument("--sides", nargs="*", default=list(SIDES), choices=tuple(SIDES))
    p.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102, 103, 104])
    a = p.parse_args()
    if a.what == "report":
        return report()
    texts = {name: read_text(name) for name in a.texts}
    if a.what == "grid":
        for name, text in texts.items():
            for lr in (4e-3, 8e-3, 16e-3):
                run(Side(name, "bptt", SIDES["bptt"]), text, 0, lr, "gap-grid")
        return None
    for seed in a.seeds:
        for name, text in texts.items():
            for side in a.sides:
                run(Side(name, side, SIDES[side]), text, seed, RATE)
    return None


if __name__ == "__main__":
    main()
