"""`make demo-speech`: from sounds to text, with and without backpropagation through time.

Melodies of 3 to 8 notes with transcripts such as "cegc", made on the spot (`datasets.load("melodies")`). The same model,
initialisation, data order, updates, optimiser and rates for all sides: log-mel, a convolution of stride 2, a recurrent
layer, CTC. Settings were chosen on the validation part; the error rates are those of the test part, of the deployed
chain. Ends with a table, a model that listens, and a picture in demo-out/.
"""

import argparse
import pathlib
import statistics
import time
from typing import Any

import torch

import hbll_seq as hs

OUT = pathlib.Path("demo-out")
SIDES: dict[str, dict[str, Any]] = {
    "hbll": {"rule": "hbll"},
    "bptt, our kernels": {"rule": "bptt"},
    "bptt, PyTorch's layers": {"rule": "bptt", "kernels": "torch"},
}


def train(data: hs.datasets.Speech, side: dict[str, Any], a: argparse.Namespace, seed: int) -> tuple[Any, hs.History]:
    """Model and history."""
    model = hs.models.Transcriber(
        data.labels,
        hs.audio.LogMel(data.rate, mels=40),
        hidden=64,
        cell=a.cell,
        bidirectional=a.bidirectional,
        seed=seed,
    )
    run = hs.fit(model, *data.train, steps=a.steps, batch_size=8, lr=6e-3, seed=seed, progress=a.progress, **side)
    return model, run


def listen(model: Any, wave: torch.Tensor, chunk: int) -> tuple[str, float]:
    """Text of a long sound heard in chunks; seconds of computing per second of sound."""
    where, text, began = None, "", time.perf_counter()
    for piece in wave.split(chunk):
        heard, where = model.listen(piece, where)
        text += heard.text
    text += model.listen(wave[:0], where, end=True)[0].text
    return text, (time.perf_counter() - began) / (len(wave) / 8000)


def picture(model: Any, wave: torch.Tensor, true: str) -> pathlib.Path:
    """One melody: its log-mel spectrogram, and what the model thinks at every time step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    OUT.mkdir(exist_ok=True)
    steps = model.front([wave])[0][0]
    (scores,) = hs.predict(model, [wave], probabilities=True)
    seconds, hop = len(wave) / 8000, model.front.hop * model.encoder.stride / 8000
    figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    axes[0].imshow(steps.T, origin="lower", aspect="auto", extent=(0, len(steps) * model.front.hop / 8000, 0, 40))
    axes[0].set(ylabel="mel band", title=f'"{true}", heard as "{model.transcribe([wave])[0]}"')
    middle = (torch.arange(len(scores)) + 0.5) * hop
    axes[1].plot(middle, scores[:, 0], color="0.7", lw=1, label="blank")
    for i, label in enumerate(model.alphabet.labels):
        colour = hs.plot.COLOURS[i % len(hs.plot.COLOURS)]
        axes[1].plot(middle, scores[:, i + 1], color=colour, ls="-" if i < len(hs.plot.COLOURS) else "--", label=label)
    axes[1].set(xlim=(0, seconds), xlabel="seconds", ylabel="probability")
    axes[1].legend(frameon=False, ncols=4, loc="upper right", bbox_to_anchor=(1, 0.9))
    figure.savefig(OUT / "speech.png", dpi=150)
    plt.close(figure)
    return OUT / "speech.png"


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--cell", default="gru")
    p.add_argument("--bidirectional", action="store_true", help="better, but it cannot listen")
    p.add_argument("--progress", action="store_true")
    a = p.parse_args()
    data = hs.datasets.load("melodies")
    rows, kept = [], None
    for name, side in SIDES.items():
        rates, times = [], []
        for seed in a.seeds:
            model, run = train(data, side, a, seed)
            rates.append(100 * model.error_rate(*data.test))
            times.append(1000 * run.history["seconds"][-1] / a.steps)
            kept = kept or model
        spread = "" if len(rates) < 2 else f" ({min(rates):.1f}..{max(rates):.1f})"
        rows.append(f"| {name} | {statistics.mean(rates):.1f} %{spread} | {statistics.mean(times):.0f} |")
        print(f"{name}: {rates[-1]:.1f} %", flush=True)
    print(f"\n{data.source}, {a.cell} of 64 units, {a.steps} updates of 8 sounds, {len(a.seeds)} seed(s)")
    print("| rule | notes wrong, test part | milliseconds an update |\n|---|---|---|")
    print("\n".join(rows))
    assert kept is not None
    if not a.bidirectional:
        waves, transcripts = data.test
        text, factor = listen(kept, torch.cat(waves[:20]), chunk=800)
        rate = hs.audio.error_rate(["".join(transcripts[:20])], [text]).rate
        print(f"\nheard in chunks of 100 ms: {100 * rate:.1f} % wrong, {factor:.4f} s of computing a second of sound")
    print(picture(kept, data.test.waves[0], data.test.transcripts[0]))


if __name__ == "__main__":
    main()
