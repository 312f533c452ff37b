"""What does context buy? A language model of the standard library's source, trained and read in longer windows.

    python -m benchmarks.context run [--rules hbll] [--seeds 100] [--windows 256]    one line of JSON a run
    python -m benchmarks.context report

One layer of GRU, 256 units, byte-pair symbols (1,000) learned from the training part. An update has 4,096 symbols
whatever the window: 16 sequences of 256, 4 of 1,024 or one of 4,096. Credit reaches over the whole window:

* "hbll": windows drawn at random, each from a zero state, defaults of the rule;
* "tbptt carried": windows in order along as many streams, the state carried on, the gradient cut where a window
  starts and nowhere else.

All are read on the same symbols of the test part, in bits a byte by the deployed chain: windows that overlap by three
quarters, each from a zero state, of which the last quarter counts. `bits_per_byte` is the figure in windows of the
training's size, `at_256`, `at_1024` and `at_4096` those in windows of these sizes, and `one_state` that of one state
over the whole text. No choice was made on the test part.
"""

import argparse
import statistics
import time
from typing import Any

import torch

import hbll_seq as hs
from benchmarks.results import append, done, read

WINDOWS = (256, 1024, 4096)
RULES = ("hbll", "tbptt carried")
SYMBOLS = 4096  # of an update
COUNTED = 32 * 1024  # symbols of the test part that count: those from 3,072 on, which every window can read
OPTIONS: dict[str, Any] = {
    "text": "stdlib", "limit_characters": 4_000_000, "tokenizer": "bpe:1000", "cell": "gru", "hidden": 256,
    "steps": 300, "lr": 3e-3, "schedule": "constant", "warmup": 20, "symbols": SYMBOLS,
}  # fmt: skip


class Clock:
    """CPU seconds inside updates."""

    def __init__(self) -> None:
        self.each: list[float] = []

    def on_fit_begin(self, run: hs.History) -> None:
        self.mark = time.process_time()

    def on_step_end(self, run: hs.History, step: int) -> None:
        now = time.process_time()
        self.each.append(now - self.mark)
        self.mark = now


def last_quarters(test: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows `(N, window + 1)` whose last quarters are the counted symbols, and the mask `(N, window + 1)` of these."""
    part, first = window // 4, WINDOWS[-1] * 3 // 4
    starts = range(first - (window - part), first - (window - part) + COUNTED, part)
    counts = torch.zeros(len(starts), window + 1, dtype=torch.bool)
    counts[:, window - part + 1 :] = True
    return torch.stack([test[s : s + window + 1] for s in starts]), counts


def bits(model: hs.models.LanguageModel, test: torch.Tensor) -> dict[str, float]:
    """Bits a byte of the counted symbols, in windows of every size and with one state."""
    found = {}
    for window in WINDOWS:
        x, counts = last_quarters(test, window)
        found[f"at_{window}"] = hs.evaluate(model, x, mask=counts, batch_size=SYMBOLS * 4 // window)["bits_per_byte"]
    first = WINDOWS[-1] * 3 // 4
    counts = (torch.arange(first + COUNTED + 1) > first)[None]
    found["one_state"] = hs.evaluate(model, test[None, : first + COUNTED + 1], mask=counts, stateful=True)[
        "bits_per_byte"
    ]
    return found


def run(rules: list[str], windows: list[int], seeds: list[int]) -> None:
    """Make the runs that are not on record."""
    text = hs.datasets.load(
        OPTIONS["text"], limit_characters=OPTIONS["limit_characters"], tokenizer=OPTIONS["tokenizer"]
    )
    for seed in seeds:
        for window in windows:
            for rule in rules:
                task = f"windows of {window}"
                if done("context", task=task, rule=rule, seed=seed):
                    continue
                options = {**OPTIONS, "window": window, "batch_size": SYMBOLS // window}
                model, clock = hs.models.LanguageModel(text.tokenizer, hidden=OPTIONS["hidden"], seed=seed), Clock()
                own = {"stateful": True, "block_size": window} if rule == "tbptt carried" else {}
                told = {name: options[name] for name in ("window", "batch_size", "steps", "lr", "schedule", "warmup")}
                hs.fit(
                    model, text.train, rule=rule.split()[0], seed=seed, progress=False, callbacks=[clock], **told, **own
                )
                found = bits(model, text.test)
                append(dict(
                    benchmark="context", task=task, rule=rule, seed=seed,
                    options={**options, **own, "sha256": text.sha256[:12]},
                    figures={
                        "bits_per_byte": found[f"at_{window}"], **found,
                        "seconds": sum(clock.each), "ms": 1000 * statistics.median(clock.each),
                    },
                ))  # fmt: skip
                print(task, rule, seed, {name: round(value, 4) for name, value in found.items()}, flush=True)


def report() -> None:
    """Print a row for each rule and window: the mean over seeds of every figure, and the seeds' own."""
    names = ("bits_per_byte", *(f"at_{window}" for window in WINDOWS), "one_state", "ms")
    print(f"| rule | window | seeds | {' | '.join(names)} | each |\n|{'---|' * (len(names) + 4)}")
    for rule in RULES:
        for window in WINDOWS:
            runs = [one["figures"] for one in read("context", task=f"windows of {window}", rule=rule)]
            if runs:
                cells = [f"{statistics.mean(one[name] for one in runs):.{0 if name == 'ms' else 3}f}" for name in names]
                each = ", ".join(f"{one['bits_per_byte']:.3f}" for one in runs)
                print(f"| {rule} | {window} | {len(runs)} | {' | '.join(cells)} | {each} |")


def main() -> None:
    """Make the runs, or print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--windows", nargs="+", type=int, choices=WINDOWS, default=list(WINDOWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    asked = parser.parse_args()
    if asked.what == "run":
        torch.set_num_threads(1)
        run(asked.rules, asked.windows, asked.seeds)
    else:
        report()


if __name__ == "__main__":
    main()
