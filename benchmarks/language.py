"""Subword language models: rule beside rule at equal updates and at equal time; carried state; tying, dropout and norm.

    python -m benchmarks.language run [--groups gru long] [--seeds 100 101] [--rules hbll]    one JSON line a run
    python -m benchmarks.language report

Byte-pair symbols learned from the training part; one layer of 256 units; 2,048 symbols an update, Adam at a constant
3e-3 after 20 updates of warm-up (a decaying rate would favour whoever stops last), clip 1. Every 50 updates the model
reads the test part (tiny Shakespeare: its held-out part) with one state, in bits a byte. No choice was made on it.
"bptt" is PyTorch's own `nn.GRU` or `nn.LSTM`; "bptt carried" runs on this package's kernels. Times are CPU seconds of
one thread inside updates. Bits at equal time are read off each run's curve, at the time when the first of a group ends.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

import hbll_seq as hs

OUT = Path("benchmarks/out/language.jsonl")
EVERY = 50
SYMBOLS = 2048  # of an update


class Group(NamedTuple):
    """Runs that are compared: a text, a network, a window, and rules or options."""

    text: str
    tokenizer: str
    rules: tuple[str, ...]
    window: int = 256
    model: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    steps: int = 150


RULES = ("hbll", "bptt", "tbptt", "tbptt carried")
ALL = (*RULES, "hbll carried", "bptt carried")
GROUPS = {
    "gru": Group("pydoc", "bpe:1000", ALL),
    "long": Group("pydoc", "bpe:1000", RULES, window=1024),
    "shakespeare": Group("tinyshakespeare", "bpe:1000", ALL),
    "lstm": Group("pydoc", "bpe:1000", RULES, model={"cell": "lstm"}),
    "options": Group(
        "pydoc", "bpe:1000", ("hbll",),
        variants={"tied": {"tie_weights": True}, "norm": {"norm": "layer"}, "dropout 0.2": {"dropout": 0.2},
                  "tied, norm": {"tie_weights": True, "norm": "layer"}},
    ),
    "deep": Group("pydoc", "bpe:1000", ("hbll", "bptt", "tbptt"), model={"layers": 2}),
    "stdlib": Group("stdlib", "bpe:4000", RULES),
    "4000": Group("pydoc", "bpe:4000", RULES),
}  # fmt: skip
FIRST_SEED_ONLY = ("deep", "stdlib", "4000")


class Clock:
    """CPU seconds inside updates, and the test's bits a byte on the way."""

    def __init__(self, held_out: torch.Tensor) -> None:
        self.held_out, self.spent, self.points = held_out, 0.0, []

    def on_fit_begin(self, run: hs.History) -> None:
        self.mark = time.process_time()

    def on_step_end(self, run: hs.History, step: int) -> None:
        self.spent += time.process_time() - self.mark
        if step % EVERY == 0:
            bits = hs.evaluate(run.model, self.held_out)["bits_per_byte"]
            self.points.append((step, round(self.spent, 2), bits))
        self.mark = time.process_time()


def read(text: str, tokenizer: str) -> hs.datasets.Text:
    options = {"limit_characters": 2_000_000} if text == "stdlib" else {}
    return hs.datasets.load(text, tokenizer=tokenizer, **options)


def trained(group: Group, text: hs.datasets.Text, rule: str, options: dict[str, Any], seed: int) -> Clock:
    model = hs.models.LanguageModel(text.tokenizer, **{"hidden": 256, "seed": seed, **group.model, **options})
    clock = Clock(text.test if len(text.test) else text.valid)
    name, carried = rule.split()[0], rule.endswith("carried")
    own = {"kernels": "torch"} if rule == "bptt" else {}
    hs.fit(
        model, text.train, rule=name, stateful=carried, window=group.window, batch_size=SYMBOLS // group.window,
        steps=group.steps, lr=3e-3, schedule="constant", warmup=20, seed=seed, progress=False, callbacks=[clock], **own,
    )  # fmt: skip
    return clock


def run(names: list[str], seeds: list[int], rules: list[str] | None) -> None:
    """Make the runs that `OUT` does not have yet."""
    OUT.parent.mkdir(exist_ok=True)
    done = {(one["group"], one["rule"], one["variant"], one["seed"]) for one in lines()}
    for seed in seeds:
        for name in names:
            if name in FIRST_SEED_ONLY and seed != seeds[0]:
                continue
            group = GROUPS[name]
            text = read(group.text, group.tokenizer)
            for rule in (one for one in group.rules if rules is None or one in rules):
                for variant, options in (group.variants or {"": {}}).items():
                    if (name, rule, variant, seed) in done:
                        continue
                    clock = trained(group, text, rule, options, seed)
                    line = dict(group=name, rule=rule, variant=variant, seed=seed, points=clock.points)
                    with OUT.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    print(name, rule, variant, seed, clock.points[-1], flush=True)


def at_time(points: list[tuple[int, float, float]], seconds: float) -> float:
    """Bits after so many seconds, between two evaluations by a straight line; the last ones where a run ended before."""
    before = points[0]
    for point in points:
        if point[1] >= seconds:
            span = point[1] - before[1]
            share = (seconds - before[1]) / span if span > 0 else 1.0
            return before[2] + share * (point[2] - before[2])
        before = point
    return before[2]


def lines() -> list[dict[str, Any]]:
    """All runs on record, cut at the updates of their group."""
    found = [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []
    for line in found:
        line["points"] = [point for point in line["points"] if point[0] <= GROUPS[line["group"]].steps]
    return found


def report() -> None:
    for name, group in GROUPS.items():
        mine = [line for line in lines() if line["group"] == name]
        if not mine:
            continue
        end = min(line["points"][-1][1] for line in mine)
        print(f"\n{name}: {group.text}, {group.tokenizer}, windows of {group.window}, {group.model}, {group.steps}\n")
        print(f"| rule | runs | bits a byte | at {end:.0f} s | ms an update |\n|---|---|---|---|---|")
        for key in dict.fromkeys((line["rule"], line["variant"]) for line in mine):
            runs = [line["points"] for line in mine if (line["rule"], line["variant"]) == key]
            last = [points[-1][2] for points in runs]
            cost = statistics.mean(1000 * points[-1][1] / points[-1][0] for points in runs)
            timed = statistics.mean(at_time(points, end) for points in runs)
            each = ", ".join(f"{one:.3f}" for one in last)
            label = " ".join(filter(None, key))
            print(f"| {label} | {len(runs)} | {statistics.mean(last):.3f} ({each}) | {timed:.3f} | {cost:.0f} |")


def main() -> None:
    """Run the groups, or print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--groups", nargs="+", choices=sorted(GROUPS), default=list(GROUPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--rules", nargs="+", choices=ALL)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "run":
        run(asked.groups, asked.seeds, asked.rules)
    else:
        report()


if __name__ == "__main__":
    main()
