"""`make demo`: a character GRU on real English, trained with and without backpropagation through time.

Three sides: `hbll`; BPTT by the same compiled kernels, so that nothing but the rule differs; and BPTT by PyTorch's own
`nn.GRU`, what a user has. Same cell, initialisation, data order, steps, optimiser and learning rate for all; the text is
CPython's own `pydoc_data.topics`, so nothing is downloaded. Ends with a table, generated text and pictures in demo-out/.
About three minutes on 2 cores, most of them for `nn.GRU`. `benchmarks.demo_seeds` repeats it with fresh seeds.
"""

import argparse
import pathlib
import statistics
import sys
import time
from typing import Any

import torch

import hbll_seq as hs
from benchmarks.quality import gradient
from hbll_seq.data.batch import Batch

OUT = pathlib.Path("demo-out")
SENTENCE = "The statement "
SIDES: dict[str, dict[str, Any]] = {
    "hbll": dict(rule="hbll"),
    "bptt": dict(rule="bptt"),
    "nn.GRU": dict(rule="bptt", kernels="torch"),
}


def curves(runs: dict[str, hs.History]) -> Any:
    """Learning curves of all sides, by step and by time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, colour in zip(runs, hs.plot.COLOURS, strict=False):
        hs.plot.learning_curve(runs[name], ax=axes[0], label=name, colour=colour)
        h = runs[name].history
        if name == "nn.GRU":  # what BPTT by our kernels does, so both lines can be seen
            for line in axes[0].lines[-2:]:
                line.set_linestyle(":")
        axes[1].plot(
            [h["seconds"][s - 1] for s in h["val_step"]],
            h["val_loss"],
            color=colour,
            marker="o",
            ms=4,
            label=name,
        )
    axes[0].legend(frameon=False)
    axes[0].set_ylim(top=3.4)
    axes[0].set_title("by training step")
    axes[1].set(
        xlabel="seconds of training (held-out passes included)",
        ylabel="held-out loss (nats)",
        title="by time",
    )
    axes[1].grid(alpha=0.25)
    axes[1].legend(frameon=False)
    return figure


def pictures(runs: dict[str, hs.History], model: hs.models.CharLM, text: hs.datasets.Text) -> list[pathlib.Path]:
    """Learning curves of both, the tree with what each block learned, a first credit picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []

    def keep(figure: "plt.Figure", name: str) -> None:
        paths.append(OUT / name)
        figure.savefig(paths[-1], dpi=150)
        plt.close(figure)

    keep(curves(runs), "learning_curves.png")

    blocks = runs["hbll"].history["block_loss"]
    options = runs["hbll"].config
    size = options["window"] // len(blocks[0])
    figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    fallen = [
        a - b for a, b in zip(blocks[0], [statistics.mean(col) for col in zip(*blocks[-3:], strict=True)], strict=True)
    ]
    hs.plot.tree(fallen, ax=ax, label="loss fallen in training (nats)", block_size=size)
    ax.set_title("What each block of the tree learned")
    keep(figure, "tree.png")

    x = text.valid[2000:2257][None]
    figure, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
    result = hs.credit(model, x, kind="knockout", block_size=16, background=text.train)
    hs.plot.credit(result, ax=ax, text=text.decode(x[0]))
    ax.set_title(f"What the prediction of the last character, {text.decode(x[0, -1:])!r}, is owed to")
    keep(figure, "credit.png")
    return paths


def seconds_per_step(
    text: hs.datasets.Text, hidden: int, batch: int, window: int, repeats: int = 9
) -> dict[str, list[float]]:
    """Step times of all sides, alternating, on models of their own."""
    sides = {}
    for name, options in SIDES.items():
        model = hs.models.CharLM(text.vocab_size, hidden=hidden, seed=0)
        learner = hs.rules.make(options["rule"], **{k: v for k, v in options.items() if k != "rule"})
        learner.setup(model, torch.Generator().manual_seed(0))
        sides[name] = (model, learner, torch.optim.Adam(model.parameters(), lr=4e-3), [])
    g = torch.Generator().manual_seed(0)
    for i in range(repeats + 4):
        at = torch.randint(len(text.train) - window - 1, (batch,), generator=g).tolist()
        w = torch.stack([text.train[j : j + window + 1] for j in at])
        data = Batch(w[:, :-1], torch.full((batch,), window), w[:, 1:], None)
        for model, learner, optimizer, times in sides.values():
            start = time.perf_counter()
            hs.step(model, data, learner, optimizer, progress=0.5)  # half way through a run
            if i >= 4:
                times.append(time.perf_counter() - start)
    return {name: side[3] for name, side in sides.items()}


def train(text: hs.datasets.Text, side: str, a: argparse.Namespace, seed: int) -> tuple[hs.models.CharLM, hs.History]:
    """A model trained by one side, and its history."""
    model = hs.models.CharLM(text.vocab_size, hidden=a.hidden, symbols=text.symbols, seed=seed)
    run = hs.fit(
        model, text.train, steps=a.steps, batch_size=a.batch, window=a.window, lr=a.lr, seed=seed,
        validation=text.valid, progress=sys.stdout.isatty(), **SIDES[side],
    )  # fmt: skip
    return model, run


def cosines(text: hs.datasets.Text, trained: hs.models.CharLM, a: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Cosine of hbll's gradient to BPTT's as at the first step of the run and as at the last."""
    g = torch.Generator().manual_seed(5)
    at = torch.randint(len(text.train) - a.window - 1, (a.batch,), generator=g).tolist()
    w = torch.stack([text.train[i : i + a.window + 1] for i in at])
    data = Batch(w[:, :-1], torch.full((a.batch,), a.window), w[:, 1:], None)

    def cosine(model: hs.models.CharLM, progress: float) -> float:
        ours = gradient(hs.rules.make("hbll"), model, data, progress)
        exact = gradient(hs.rules.make("bptt", kernels="torch"), model, data)
        return float(torch.nn.functional.cosine_similarity(ours, exact, dim=0))

    return cosine(hs.models.CharLM(text.vocab_size, hidden=a.hidden, seed=seed), 0.0), cosine(trained, 1.0)


def _ran(run: hs.History) -> str:
    """The schedule of most steps: "sequential" is one compiled call each way over whole sequences."""
    seen = run.history.get("schedule", ["sequential"])
    return max(set(seen), key=seen.count)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of the settings of the run; `benchmarks.demo_seeds` has the same."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=1000)
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--window", type=int, default=512)
    p.add_argument("--lr", type=float, default=8e-3)
    return p


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    OUT.mkdir(exist_ok=True)
    text = hs.datasets.load("pydoc")
    print(
        f"text: {text.source}, {len(text.train)} characters to train on, {len(text.valid)} held out, sha256 {text.sha256[:16]}"
    )
    print(
        f"model: GRU, {a.hidden} units; batch {a.batch} x {a.window} steps; {a.steps} steps; {torch.get_num_threads()} threads\n"
    )
    runs, models = {}, {}
    for name, options in SIDES.items():
        print(f"training with {', '.join(f'{key}={value!r}' for key, value in options.items())}")
        models[name], runs[name] = train(text, name, a, a.seed)
        runs[name].to_json(OUT / f"{name}.json")
    times = {rule: statistics.median(t) for rule, t in seconds_per_step(text, a.hidden, a.batch, a.window).items()}
    first, last = cosines(text, models["hbll"], a, a.seed)
    bits = text.bits_per_character()
    depth = {rule: statistics.median(run.history["depth"]) for rule, run in runs.items()}
    held = {rule: run.history["val_bits"][-1] for rule, run in runs.items()}
    lines = [
        ("", *SIDES),
        ("held-out bits per character (deployed chain)", *(f"{held[name]:.3f}" for name in SIDES)),
        ("what ran at the same time", *(_ran(runs[name]) for name in SIDES)),
        ("sequential depth of a step", *(f"{depth[name]:.0f}" for name in SIDES)),
        ("milliseconds a step (median of 9, alternating)", *(f"{1e3 * times[name]:.1f}" for name in SIDES)),
        ("speed", *(f"{times['nn.GRU'] / times[name]:.1f}x" for name in SIDES)),
        ("cosine of the gradient to BPTT's, first / last step", f"{first:.4f} / {last:.4f}", "1", "1"),
    ]
    width = max(len(line[0]) for line in lines)
    table = "\n".join(f"{n:<{width}}  {u:>15}  {v:>10}  {w:>10}" for n, u, v, w in lines)
    table += (
        f"\n\nfor comparison, bits per character of the held-out text: unigram {bits['unigram']:.2f}, "
        f"gzip -9 {bits['gzip']:.2f}, xz {bits['xz']:.2f} (both after reading the training text)"
    )
    print("\n" + table)
    sample = models["hbll"].generate(SENTENCE, 300, seed=1)
    print(f"\nthe hbll model continues {SENTENCE!r}:\n{sample}\n")
    (OUT / "table.txt").write_text(f"{table}\n\n{sample}\n")
    for path in pictures(runs, models["hbll"], text):
        print(f"picture: {path}")


if __name__ == "__main__":
    main()
