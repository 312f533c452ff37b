"""Does a carried state help? Windows in order with a carried state, against windows drawn at random from zero.

`python -m benchmarks.carried` (about a quarter of an hour, one core): pydoc text, one layer of GRU, the same number of updates of
the same size, three seeds. Every model is evaluated twice: with one state over the whole held-out text, and in windows
of the training's size that start from zero.
"""

import argparse
import statistics

import torch

import hbll_seq as hs


def figures(
    a: argparse.Namespace, text: hs.datasets.Text, rule: str, window: int, carried: bool, seed: int
) -> list[float]:
    """Train one model; return its held-out loss with one state, and in windows from zero, in nats."""
    model = hs.models.CharLM(text.vocab_size, hidden=a.hidden, symbols=text.symbols, seed=seed)
    hs.fit(
        model, text.train, rule=rule, stateful=carried, window=window, batch_size=a.batch, steps=a.steps, lr=a.lr,
        seed=seed, progress=False,
    )  # fmt: skip
    return [
        hs.evaluate(model, text.valid, stateful=True)["loss"],
        hs.evaluate(model, text.valid, window=window)["loss"],
    ]


def main() -> None:
    """Print the table, a row for each rule, window and kind of start."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rules", nargs="+", default=["tbptt", "hbll"])
    p.add_argument("--windows", nargs="+", type=int, default=[32, 128])
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--lr", type=float, default=4e-3)
    a = p.parse_args()
    torch.set_num_threads(1)
    text = hs.datasets.load("pydoc")
    print("| rule | window | start | one state | windows from zero |\n|---|---|---|---|---|", flush=True)
    for window in a.windows:
        for rule in a.rules:
            for carried in (False, True):
                runs = [figures(a, text, rule, window, carried, seed) for seed in a.seeds]
                cells = []
                for values in zip(*runs, strict=True):
                    each = ", ".join(f"{one:.4f}" for one in values)
                    cells.append(f"{statistics.mean(values):.4f} ({each})")
                print(f"| {rule} | {window} | {'carried' if carried else 'zero'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
