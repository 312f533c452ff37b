"""Sound, rule beside rule: `python -m benchmarks.audio TASK --rules hbll bptt --lr 4e-3 8e-3 --seeds 0 1 2 --steps 600`.

Tasks:

* `raw`: spoken digits of an unseen speaker as raw wave, `--frame` samples a step, `--samples` of each recording.
* `strings`: which digit came first? Strings of digits, a question long after the first (`datasets.load("digitstrings")`).
  `--digits 1 --delay 0` is the digit alone: what can be had.
* `wave`: the next sample of spoken digits over `--levels` mu-law levels; bits a sample.

Same cell, initialisation, data order, steps and optimiser (Adam, linear decay to zero, gradients clipped at norm 1); the rate is
chosen on the first seed by held-out loss. Held-out figures are those of the deployed chain. Every run appends a line with its
curve over seconds (training alone, held-out passes left out) to benchmarks/out/audio.jsonl.
"""

import argparse
import json
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import torch

import hbll_seq as hs

LOG = pathlib.Path(__file__).parent / "out" / "audio.jsonl"


class Task(NamedTuple):
    """Training and held-out data as `fit` takes them, and a model for a seed."""

    x: Any
    y: Any
    held: Any
    model: Any  # seed -> model
    options: dict[str, Any]


def raw(a: argparse.Namespace) -> Task:
    """Digits as they were recorded."""
    d = hs.datasets.load(
        "fsdd", steps=a.samples // a.frame, samples_per_step=a.frame, held_out=a.speaker, normalise="rms"
    )

    def model(seed: int) -> Any:
        return hs.models.AudioClassifier(
            10, hs.audio.Frames(a.frame), hidden=a.hidden, seed=seed, timescale=a.timescale
        )

    held = ((d.test_x, d.test_lengths), d.test_y)
    return Task((d.train_x, d.train_lengths), d.train_y, held, model, {})


def strings(a: argparse.Namespace) -> Task:
    """Strings of digits with a question."""
    d = hs.datasets.load(
        "digitstrings", digits=a.digits, delay=a.delay, samples_per_step=a.frame, held_out=a.speaker, n=a.n
    )

    def model(seed: int) -> Any:
        return hs.models.AudioClassifier(
            10, hs.audio.Frames(a.frame), hidden=a.hidden, seed=seed, timescale=a.timescale
        )

    if not a.logmel:
        return Task(d.train_x, d.train_y, (d.test_x, d.test_y), model, {})
    front = hs.audio.LogMel(8000, mels=20, window=32, hop=16)
    (x, _), (held, _) = front(list(d.train_x.flatten(1))), front(list(d.test_x.flatten(1)))
    mean, scale = x.mean((0, 1)), x.std((0, 1))

    def listener(seed: int) -> Any:
        return hs.models.AudioClassifier(10, front, hidden=a.hidden, seed=seed, timescale=a.timescale)

    return Task((x - mean) / scale, d.train_y, ((held - mean) / scale, d.test_y), listener, {})


def wave(a: argparse.Namespace) -> Task:
    """One long sound for training, one for the test: every take of the training speakers, of the speaker held out."""
    d = hs.datasets.load("fsdd", steps=1024, samples_per_step=8, held_out=a.speaker)

    def whole(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.cat([w[: 8 * int(n)] for w, n in zip(x.flatten(1), lengths, strict=True)])

    def model(seed: int) -> Any:
        return hs.models.WaveModel(8000, a.levels, hidden=a.hidden, seed=seed, timescale=a.timescale)

    codes = model(0).prepare
    assert d.train_lengths is not None and d.test_lengths is not None
    held = codes(whole(d.test_x, d.test_lengths))[: 64 * a.window]
    return Task(codes(whole(d.train_x, d.train_lengths)), None, held, model, {"window": a.window})


def train(name: str, task: Task, a: argparse.Namespace, lr: float, seed: int) -> dict[str, Any]:
    """A line for the log; with `--sample` also what the model says."""
    model = task.model(seed)
    rule = {"block_size": a.block} if name == "tbptt" else {}
    run = hs.fit(
        model, task.x, task.y, rule=name, steps=a.steps, batch_size=a.batch, lr=lr, seed=seed, validation=task.held,
        validate_every=max(1, a.steps // 12), progress=False, **task.options, **rule,
    )  # fmt: skip
    h, what = run.history, "val_loss" if a.task == "wave" else "val_accuracy"
    seconds = _training_seconds(h)
    curve = [[seconds[int(step) - 1], v] for step, v in zip(h["val_step"], h[what], strict=True)]
    line = {
        **{k: v for k, v in vars(a).items() if k not in ("rules", "seeds", "lr", "sample", "plot")},
        "rule": name,
        "lr": lr,
        "seed": seed,
    }
    line |= {"loss": h["val_loss"][-1], "final": h[what][-1], "seconds": seconds[-1], "curve": curve}
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{a.task} {name} lr {lr} seed {seed}: {_shown(a, line['final'])}, {line['seconds']:.0f} s", flush=True)
    if a.sample:
        sample(model, task, a, f"{a.sample}-{name}")
    return line


def sample(model: Any, task: Task, a: argparse.Namespace, name: str) -> None:
    """A second of sound made by a wave model, as WAV and as a spectrogram beside a second of what was held out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    made = model.eval().generate(model.rate, temperature=0.95, seed=1)
    hs.audio.write(name + ".wav", made, model.rate)
    real = hs.audio.mu_law_decode(task.held, a.levels)[: model.rate]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for ax, sound, title in zip(axes, (real, made), ("recorded, held out", "generated"), strict=True):
        power = torch.stft(sound, 256, 64, window=torch.hann_window(256), return_complex=True).abs().square()
        shown = ax.imshow(
            10 * torch.log10(power + 1e-4), origin="lower", aspect="auto", extent=(0, 1, 0, model.rate / 2000),
            cmap="cividis", vmin=-30, vmax=30,
        )  # fmt: skip
        ax.set(title=title, xlabel="time (s)")
    axes[0].set_ylabel("frequency (kHz)")
    figure.colorbar(shown, ax=axes, label="power (dB)")
    figure.savefig(name + ".png", dpi=150)
    plt.close(figure)


def plot(lines: list[dict[str, Any]], file: str) -> None:
    """Held-out figure over seconds of training: every seed thin, the mean of a rule over its seeds bold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    names = list(dict.fromkeys(line["rule"] for line in lines))
    for name, colour, marker in zip(names, hs.plot.COLOURS, "os^D", strict=False):
        curves = torch.tensor([line["curve"] for line in lines if line["rule"] == name])  # (seeds, points, 2)
        if lines[0]["task"] == "wave":
            curves[..., 1] /= math.log(2)
        else:
            curves[..., 1] *= 100
        for curve in curves:
            ax.plot(*curve.T, color=colour, linewidth=0.7, alpha=0.5)
        ax.plot(*curves.mean(0).T, color=colour, marker=marker, markersize=4, label=f"{name}, {len(curves)} seeds")
    what = "bits a sample, held out" if lines[0]["task"] == "wave" else "held-out accuracy (%)"
    ax.set(xlabel="seconds of training", ylabel=what)
    ax.set_xlim(left=0)
    ax.legend(frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _training_seconds(h: dict[str, list[float]]) -> list[float]:
    """Seconds of training after every step, without the held-out passes: the step after one counts as the median."""
    taken = [b - a for a, b in zip([0.0, *h["seconds"]], h["seconds"], strict=False)]
    usual = statistics.median(taken)
    for step in h["val_step"]:
        if int(step) < len(taken):
            taken[int(step)] = usual
    return [float(s) for s in torch.tensor(taken).cumsum(0)]


def _shown(a: argparse.Namespace, value: float) -> str:
    return f"{value / math.log(2):.3f} bits" if a.task == "wave" else f"{100 * value:.1f} %"


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", choices=["raw", "strings", "wave"])
    p.add_argument("--rules", nargs="+", default=["hbll", "bptt"])
    p.add_argument("--lr", type=float, nargs="+", default=[4e-3])
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    for name, default in (
        ("steps", 300), ("batch", 32), ("hidden", 64), ("frame", 8), ("samples", 4096), ("digits", 3), ("delay", 9600),
        ("n", 4096), ("levels", 256), ("window", 1024), ("block", 128), ("timescale", 1000),
    ):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--speaker", default="jackson")
    p.add_argument("--logmel", action="store_true", help="strings by log-mel in place of raw frames")
    p.add_argument("--sample", metavar="NAME", help="wave: also write NAME-RULE.wav and .png of the last model")
    p.add_argument("--plot", metavar="FILE", help="a picture of the held-out figures over seconds of training")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    task = {"raw": raw, "strings": strings, "wave": wave}[a.task](a)
    shown: list[dict[str, Any]] = []
    for name in a.rules:
        tried = [train(name, task, a, lr, a.seeds[0]) for lr in a.lr]
        best = min(tried, key=lambda line: line["loss"])
        lines = [best] + [train(name, task, a, best["lr"], seed) for seed in a.seeds[1:]]
        shown += lines
        finals = [line["final"] for line in lines]
        spread = f"{_shown(a, statistics.mean(finals))} ({_shown(a, min(finals))} .. {_shown(a, max(finals))})"
        seconds = statistics.mean(line["seconds"] for line in lines)
        print(f"| {a.task} | {name} | {best['lr']:g} | {len(lines)} seeds | {spread} | {seconds:.0f} s |", flush=True)
    if a.plot:
        plot(shown, a.plot)


if __name__ == "__main__":
    main()
