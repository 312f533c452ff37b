"""`make demo-audio`: which tone came first? Raw waves at 8 kHz, with and without backpropagation through time.

Half a second of sound: a cue tone somewhere in the first quarter, noise, a question at the end (`datasets.load("tones")`, made
on the spot). Same cell, initialisation, data order, steps, optimiser and rates for both sides, `--seeds` seeds. With
`--fsdd` spoken digits (needs HBLL_SEQ_DATA) in place of tones, one unseen speaker, log-mel or raw frames. Accuracy is that
of the deployed chain on held-out sounds. Ends with a table, pictures in demo-out/ and, for tones, the time of an update where
blocks at once pay: one sound of two seconds, 4,096 time steps, a wide Elman layer, one thread.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import torch

import hbll_seq as hs

OUT = pathlib.Path("demo-out")
LOG = pathlib.Path(__file__).parent / "out" / "audio.jsonl"
LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "hbll, blocks at once": ("hbll", dict(execution="parallel")),
    "hbll, default": ("hbll", {}),
    "bptt, our kernels in one call": ("bptt", {}),
    "truncated bptt, 128 time steps": ("tbptt", dict(block_size=128)),
    "bptt, PyTorch's nn.RNN": ("bptt", dict(kernels="torch")),
}
Sounds = tuple[Any, Any, Any, Any, hs.audio.Front, int]  # training x, y, held-out x, y, front end, classes


def tones() -> Sounds:
    """The embedded set."""
    data = hs.datasets.load("tones", n=2560)
    train, held = data.split(512)
    return train.x, train.y, held.x, held.y, hs.audio.Frames(data.input_size), data.classes


def digits(speaker: str, logmel: bool, copies: int) -> Sounds:
    """Spoken digits, `speaker` held out, or the official takes; half a second at most. With varied training copies."""
    held_out = None if speaker == "official" else speaker
    d = hs.datasets.load("fsdd", steps=512, samples_per_step=8, held_out=held_out, normalise="rms")

    def waves(x: torch.Tensor, lengths: torch.Tensor | None) -> list[torch.Tensor]:
        assert lengths is not None
        return [w[: 8 * int(n)] for w, n in zip(x.flatten(1), lengths, strict=True)]

    train, held = waves(d.train_x, d.train_lengths), waves(d.test_x, d.test_lengths)
    train += hs.audio.vary(train, copies=copies)
    y = d.train_y.repeat(copies + 1)
    if not logmel:
        frames = hs.audio.Frames(8)
        return frames(train), y, frames(held), d.test_y, frames, 10
    front = hs.audio.LogMel(8000, mels=20, window=32, hop=16)
    (x, n), (held_x, held_n) = front(train), front(held)
    counted = torch.arange(x.shape[1]) < n[:, None]
    mean, scale = x[counted].mean(0), x[counted].std(0)  # of the training speakers

    def normal(x: torch.Tensor, n: torch.Tensor) -> Any:
        return torch.where((torch.arange(x.shape[1]) < n[:, None])[..., None], (x - mean) / scale, 0.0), n

    return normal(x, n), y, normal(held_x, held_n), d.test_y, front, 10


def train(name: str, sounds: Sounds, a: argparse.Namespace, lr: float, seed: int) -> tuple[Any, hs.History, float]:
    """Model, history, accuracy in percent."""
    x, y, held_x, held_y, front, classes = sounds
    model = hs.models.AudioClassifier(classes, front, hidden=a.hidden, cell=a.cell, seed=seed)
    run = hs.fit(
        model, x, y, rule=name, steps=a.steps, batch_size=32, lr=lr, seed=seed, validation=(held_x, held_y),
        validate_every=max(1, a.steps // 8), progress=a.progress,
    )  # fmt: skip
    accuracy = 100 * hs.evaluate(model, held_x, held_y)["accuracy"]
    line = {
        "set": a.set,
        "vary": a.vary,
        "rule": name,
        "lr": lr,
        "seed": seed,
        "steps": a.steps,
        "hidden": a.hidden,
        "cell": a.cell,
    }
    seconds = run.history["seconds"][-1]  # validation included
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as file:
        file.write(json.dumps({**line, "accuracy": accuracy, "seconds": seconds}) + "\n")
    print(f"{a.set} {name} lr {lr} seed {seed}: {accuracy:.1f} %, {seconds:.0f} s", flush=True)
    return model, run, accuracy


def linear(sounds: Sounds) -> float:
    """Accuracy in percent of logistic regression on log-mel brought to 16 frames: what needs no recurrence."""
    x, y, held_x, held_y, _, classes = sounds

    def flat(x: Any) -> torch.Tensor:
        rows = [
            torch.nn.functional.interpolate(one[: int(n)].T[None], size=16, mode="linear")[0].flatten()
            for one, n in zip(*x, strict=True)
        ]
        return torch.stack(rows)

    train_x, test_x = flat(x), flat(held_x)
    mean, scale = train_x.mean(0), train_x.std(0) + 1e-3
    train_x, test_x = (train_x - mean) / scale, (test_x - mean) / scale
    weight = torch.zeros(classes, train_x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        out = train_x @ weight[:, 1:].T + weight[:, 0]
        value = torch.nn.functional.cross_entropy(out, y) + 1e-3 * weight[:, 1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        right = (test_x @ weight[:, 1:].T + weight[:, 0]).argmax(1) == held_y
    return 100 * float(right.float().mean())


def pictures(runs: dict[str, hs.History], model: Any, sounds: Sounds, cause: int) -> list[pathlib.Path]:
    """Learning curves; one sound with what its answer is owed to."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    OUT.mkdir(exist_ok=True)
    figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for (name, run), colour in zip(runs.items(), hs.plot.COLOURS, strict=False):
        hs.plot.learning_curve(run, ax=ax, label=name, colour=colour)
    figure.savefig(OUT / "audio_learning_curves.png", dpi=150)
    _, _, held_x, held_y, front, _ = sounds
    found = hs.credit(model, held_x[:16], held_y[:16], block_size=10)
    figure, axes = plt.subplots(2, 1, figsize=(9, 5), layout="constrained", sharex=False, height_ratios=[1, 2])
    wave = held_x[0].flatten()
    axes[0].plot(torch.arange(len(wave)) / front.hop, wave, lw=0.5, color=hs.plot.COLOURS[0])
    axes[0].axvline(cause, color=hs.plot.COLOURS[1], ls="--", label="middle of the cue")
    axes[0].set(xlim=(0, len(wave) / front.hop), ylabel="amplitude", title="the sound")
    axes[0].legend(frameon=False, loc="upper center")
    hs.plot.credit(found, ax=axes[1])
    figure.savefig(OUT / "audio_credit.png", dpi=150)
    plt.close("all")
    return [OUT / "audio_learning_curves.png", OUT / "audio_credit.png"]


def long_sounds(batch_size: int, hidden: int, repeats: int) -> None:
    """Print the time of an update of each side on two-second sounds, one thread, the sides in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = hs.datasets.load("tones", seconds=2.048, samples_per_step=4, n=16)
    x, steps = data.x[:batch_size], data.x.shape[1]
    batch = hs.Batch(x, torch.full((batch_size,), steps), data.y[:batch_size], None)
    updates, times = {}, {name: list[float]() for name in LONG}
    for name, (rule_name, options) in LONG.items():
        model = hs.models.AudioClassifier(
            data.classes, hs.audio.Frames(data.input_size), hidden=hidden, cell="elman", seed=0
        )
        rule: hs.Rule[Any] = hs.rules.make(rule_name, **options)
        rule.setup(model, torch.Generator().manual_seed(0))
        updates[name] = (model, rule, torch.optim.SGD(model.parameters(), lr=1e-6))
    depth = dict.fromkeys(LONG, 0.0)
    for repeat in range(repeats + 1):
        for name, (model, rule, optimizer) in updates.items():
            start = time.perf_counter()
            depth[name] = hs.step(model, batch, rule, optimizer).result.metrics["depth"]
            if repeat:  # the first one warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    ms = {name: statistics.median(one) for name, one in times.items()}
    print(
        f"\nOne update on {batch_size} x {steps:,} time steps, Elman, {hidden} units, one thread, medians of {repeats}"
    )
    print("| side | ms | of one call | sequential depth |\n|---|---|---|---|")
    for name in LONG:
        print(f"| {name} | {ms[name]:.0f} | {ms[name] / ms['bptt, our kernels in one call']:.2f} | {depth[name]:.0f} |")


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fsdd", metavar="SPEAKER", help='spoken digits, this speaker (or "official": takes 0-4) held out')
    p.add_argument("--logmel", action="store_true")
    p.add_argument("--vary", type=int, default=0, metavar="COPIES", help="of every training recording, see audio.vary")
    p.add_argument("--linear", action="store_true", help="only the linear model on log-mel, for comparison")
    p.add_argument("--rules", nargs="+", default=["hbll", "bptt"])
    p.add_argument("--lr", type=float, nargs="+", default=[4e-3])
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--hidden", type=int, default=64)
    p.add_argument("--cell", default="gru")
    p.add_argument("--long", type=int, nargs=3, default=[1, 512, 7], metavar=("B", "d", "REPEATS"), help="0: leave out")
    p.add_argument("--progress", action="store_true")
    a = p.parse_args()
    a.set = "tones" if a.fsdd is None else f"fsdd {a.fsdd} {'log-mel' if a.logmel else 'raw'}"
    if a.linear and not (a.fsdd and a.logmel):
        p.error("--linear: got no log-mel digits, expected --fsdd SPEAKER --logmel")
    sounds = tones() if a.fsdd is None else digits(a.fsdd, a.logmel, a.vary)
    if a.linear:
        print(f"{a.set}: linear model on 16 frames of log-mel {linear(sounds):.1f} %")
        return
    rows, runs, first = [], {}, None
    for name in a.rules:
        best = None
        for lr in a.lr:  # rates are compared on the first seed
            model, run, accuracy = train(name, sounds, a, lr, a.seeds[0])
            if best is None or accuracy > best[2]:
                best = (model, run, accuracy, lr)
        assert best is not None
        model, run, accuracy, lr = best
        accuracies = [accuracy] + [train(name, sounds, a, lr, seed)[2] for seed in a.seeds[1:]]
        runs[name], first = run, first or model
        depth = run.history["depth"][-1] if "depth" in run.history else float("nan")
        spread = f"{statistics.mean(accuracies):.1f} ({min(accuracies):.1f}..{max(accuracies):.1f})"
        rows.append(f"| {name} | {lr:g} | {spread} | {depth:.0f} |")
    print(
        f"\n{a.set}, {a.cell} d={a.hidden}, {a.steps} steps of 32 sounds, {len(a.seeds)} seed(s), held-out accuracy in percent"
    )
    print("| rule | rate | accuracy, deployed chain | sequential depth of a step |\n|---|---|---|---|")
    print("\n".join(rows))
    if a.fsdd is None:
        cause = int(hs.datasets.load("tones", n=2560).cause[-512])
        for path in pictures(runs, first, sounds, cause):
            print(path)
        if all(a.long):
            long_sounds(*a.long)


if __name__ == "__main__":
    main()
