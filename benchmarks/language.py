"""Subword language models: rule beside rule at equal updates and at equal time; carried state; tying, dropout and norm.

    python -m benchmarks.language run [--groups gru long] [--seeds 100 101] [--rules hbll]    one record a run
    python -m benchmarks.language report

Byte-pair symbols learned from the training part; one layer of 256 units; 2,048 symbols an update, Adam at a constant
3e-3 after 20 updates of warm-up (a decaying rate would favour whoever stops last), clip 1. Every 50 updates the model
reads the test part (tiny Shakespeare: its held-out part) with one state, in bits a byte. No choice was made on it.
"bptt" is PyTorch's own `nn.GRU` or `nn.LSTM`; "bptt carried" runs on this package's kernels. Times are CPU seconds of
one thread inside updates. Bits at equal time are read off each run's curve, at the time when the first of a group ends.
"""

import argparse
import statistics
from typing import Any, NamedTuple

import torch

import hbll_seq as hs
from benchmarks import results
from benchmarks.rule_runs import Clock

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


def read(text: str, tokenizer: str) -> hs.datasets.Text:
    options = {"limit_characters": 2_000_000} if text == "stdlib" else {}
    return hs.datasets.load(text, tokenizer=tokenizer, **options)


def settings(group: Group, rule: str, options: dict[str, Any]) -> dict[str, Any]:
    """All that decides a run beside its seed: the text's, the network's, and those of `fit`."""
    return {
        "text": group.text, "tokenizer": group.tokenizer, "hidden": 256, **group.model, **options,
        "window": group.window, "batch_size": SYMBOLS // group.window, "steps": group.steps, "lr": 3e-3,
        "schedule": "constant", "warmup": 20, **({"stateful": True} if rule.endswith("carried") else {}),
        **({"kernels": "torch"} if rule == "bptt" else {}),
    }  # fmt: skip


def trained(group: Group, text: hs.datasets.Text, rule: str, options: dict[str, Any], seed: int) -> Clock:
    model = hs.models.LanguageModel(text.tokenizer, **{"hidden": 256, "seed": seed, **group.model, **options})
    held_out = text.test if len(text.test) else text.valid
    clock = Clock(lambda given: {"bits_per_byte": hs.evaluate(given, held_out)["bits_per_byte"]}, EVERY)
    given = settings(group, rule, options)
    names = ("window", "batch_size", "steps", "lr", "schedule", "warmup", "stateful", "kernels")
    hs.fit(
        model, text.train, rule=rule.split()[0], seed=seed, progress=False, callbacks=[clock],
        **{name: given[name] for name in names if name in given},
    )  # fmt: skip
    return clock


def run(names: list[str], seeds: list[int], rules: list[str] | None) -> None:
    """Make the runs that are not on record."""
    for seed in seeds:
        for name in names:
            group = GROUPS[name]
            text = read(group.text, group.tokenizer)
            for rule in (one for one in group.rules if rules is None or one in rules):
                for options in (group.variants or {"": {}}).values():
                    told = {**settings(group, rule, options), "sha256": text.sha256[:12]}
                    if results.done("language", task=name, rule=rule, seed=seed, options=told):
                        continue
                    clock = trained(group, text, rule, options, seed)
                    results.append(dict(
                        benchmark="language", task=name, rule=rule, seed=seed, options=told, curve=clock.curve,
                        figures={
                            "bits_per_byte": clock.curve[-1]["bits_per_byte"], "seconds": clock.spent,
                            "ms": 1000 * statistics.median(clock.times),
                        },
                    ))  # fmt: skip
                    print(name, rule, options, seed, clock.curve[-1], flush=True)


def at_time(points: list[dict[str, float]], seconds: float) -> float:
    """Bits after so many seconds, between two evaluations by a straight line; the last ones where a run ended before."""
    before = points[0]
    for point in points:
        if point["seconds"] >= seconds:
            span = point["seconds"] - before["seconds"]
            share = (seconds - before["seconds"]) / span if span > 0 else 1.0
            return before["bits_per_byte"] + share * (point["bits_per_byte"] - before["bits_per_byte"])
        before = point
    return before["bits_per_byte"]


def report() -> None:
    """Print a table for each group on record."""
    for name, group in GROUPS.items():
        mine = results.read("language", task=name)
        if not mine:
            continue
        end = min(one["figures"]["seconds"] for one in mine)
        print(f"\n{name}: {group.text}, {group.tokenizer}, windows of {group.window}, {group.model}, {group.steps}\n")
        print(f"| rule | runs | bits a byte | at {end:.0f} s | ms an update |\n|---|---|---|---|---|")
        for rule in dict.fromkeys(one["rule"] for one in mine):
            for label, options in (group.variants or {"": {}}).items():
                told = settings(group, rule, options)
                same = [{**told, "sha256": one["options"]["sha256"]} == one["options"] for one in mine]
                runs = [one for one, is_same in zip(mine, same, strict=True) if is_same and one["rule"] == rule]
                if not runs:
                    continue
                last = [one["figures"]["bits_per_byte"] for one in runs]
                cost = statistics.mean(one["figures"]["ms"] for one in runs)
                timed = statistics.mean(at_time(one["curve"], end) for one in runs)
                each = ", ".join(f"{one:.3f}" for one in last)
                print(
                    f"| {rule} {label} | {len(runs)} | {statistics.mean(last):.3f} ({each}) | {timed:.3f} | {cost:.0f} |"
                )


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
