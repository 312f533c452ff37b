"""The pictures of docs/howto/figures.md and of the method page: `python -m benchmarks.gallery` (under a minute).

GRUs of 64 units on CPython's own documentation, batch 4 x 128 characters, 100 steps, three seeds, by hbll and by BPTT:
small enough to be made anew whenever a figure changes, too small to say anything about the rules.
"""

import argparse
import pathlib
from typing import Any

import torch

import hbll_seq as hs

STEPS, SEEDS = 100, 3


def train(text: hs.datasets.Text) -> dict[str, list[hs.History]]:
    """Histories by rule, one a seed."""
    runs: dict[str, list[hs.History]] = {}
    for rule in ("hbll", "bptt"):
        for seed in range(SEEDS):
            model = hs.models.CharLM(text.vocab_size, hidden=64, symbols=text.symbols, seed=seed)
            run = hs.fit(
                model, text.train, rule=rule, steps=STEPS, batch_size=4, window=128, lr=8e-3, seed=seed,
                validation=text.valid[:3000], progress=False, measure_cosine=10 if (rule, seed) == ("hbll", 0) else None,
                **({"execution": "parallel"} if rule == "hbll" else {}),  # in order there would be no inconsistency
            )  # fmt: skip
            runs.setdefault(rule, []).append(run)
    return runs


def draw(runs: dict[str, list[hs.History]], text: hs.datasets.Text, out: pathlib.Path) -> list[pathlib.Path]:
    """Write the pictures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = []

    def sheet(name: str, *size: float, columns: int = 1) -> Any:
        figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained")
        made.append((figure, out / name))
        return axes

    first = runs["hbll"][0]
    left, middle, right = sheet("training.png", 7.8, 2.3, columns=3)
    hs.plot.learning_curves(runs, ax=left)
    hs.plot.inconsistency(first, ax=middle)
    hs.plot.gradient_cosine(first, ax=right)
    x = text.valid[2000:2129][None]
    model: Any = first.model
    tree, lags = sheet("credit_lags.png", 7.8, 2.7, columns=2)
    owed = hs.credit(model, x, block_size=8, background=text.train)
    hs.plot.credit(owed, ax=tree)
    hs.plot.lag_map(hs.lag_map(model, x, block_size=8, background=text.train), ax=lags)
    hs.plot.credit_text(owed, text.decode(x[0]), ax=sheet("credit_text.png", 7.2, 1.7))
    hs.plot.schedule(1024, 64, ax=sheet("schedule.png", 7.2, 3.8))
    for figure, path in made:
        figure.savefig(path, dpi=150)
        plt.close(figure)
    return [path for _, path in made]


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/img"))
    a = p.parse_args()
    torch.set_num_threads(1)  # such small models gain nothing from more
    text = hs.datasets.load("pydoc")
    for path in draw(train(text), text, a.out):
        print(path)


if __name__ == "__main__":
    main()
