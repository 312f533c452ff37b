"""Letters from two hours of synthetic speech, by rule: error rate over time; a record a run.

    python datasets/espeak_corpus.py FOLDER --hours 2 --words 300      (needs espeak-ng)
    python -m benchmarks.espeak FOLDER [--rules hbll bptt --steps 1000 --seeds 100]

Sentences of 2 to 6 words of 300, by voices of which those of the test are in no other part. Log-mel of 30 bands, a
convolution over 5 time steps, a GRU of 128 units in both directions, CTC over letters and the space, 16 sentences a
batch, Adam at 3e-3 falling to 0. Sides: hbll, and BPTT by PyTorch's own layers, with the same initialisation, data
order, updates and rates. The curve is of the validation part (its first 64 sentences), the figures of the test part.
No choice was made on either. Times are CPU seconds of one thread inside updates.
"""

import argparse
import pathlib
import statistics
from typing import Any

import torch

import hbll_seq as hs
from benchmarks.results import append, done
from benchmarks.rule_runs import Clock

EVERY = 200
VALIDATED = 64
LABELS = "abcdefghijklmnopqrstuvwxyz "
SIDES = {"hbll": {"rule": "hbll"}, "bptt": {"rule": "bptt", "kernels": "torch"}}
Part = tuple[list[torch.Tensor], list[str]]


def read(folder: pathlib.Path, part: str) -> Part:
    found = hs.audio.read_folder(folder / part, 8000, transcripts=folder / part / "transcripts.csv", progress=False)
    assert found.transcripts is not None
    return found.waves, found.transcripts


def run(parts: dict[str, Part], side: str, seed: int, steps: int) -> None:
    hours = sum(len(wave) for waves, _ in parts.values() for wave in waves) / 8000 / 3600
    options = {
        "hours": round(hours, 2), "sentences": len(parts["train"][0]), "mels": 30, "hop": 16, "hidden": 128,
        "conv": [[64, 5, 1]], "batch_size": 16, "lr": 3e-3, "steps": steps,
    }  # fmt: skip
    if done("espeak", task="letters", rule=side, seed=seed, options=options):
        return
    front = hs.audio.LogMel(8000, mels=30, hop=16)
    model = hs.models.Transcriber(LABELS, front, hidden=128, bidirectional=True, conv=[(64, 5, 1)], seed=seed)
    waves, texts = parts["validation"]

    def measure(given: Any) -> dict[str, float]:
        rate = given.error_rate(waves[:VALIDATED], texts[:VALIDATED])
        print(rate, flush=True)
        return {"error_rate": rate}

    clock = Clock(measure, EVERY)
    hs.fit(
        model, *parts["train"], steps=steps, batch_size=16, lr=3e-3, seed=seed, progress=False, callbacks=[clock],
        **SIDES[side],
    )  # fmt: skip
    test, told = parts["test"]
    found = model.transcribe(test)
    append(dict(
        benchmark="espeak", task="letters", rule=side, seed=seed, options=options, curve=clock.curve,
        figures={
            "error_rate": hs.audio.error_rate(told, found).rate,
            "word_error_rate": hs.audio.error_rate(told, found, unit="word").rate,
            "seconds": clock.spent, "ms": 1000 * statistics.median(clock.times),
        },
    ))  # fmt: skip


def main() -> None:
    """Make the runs that are not on record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--rules", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    parts = {part: read(asked.folder, part) for part in ("train", "validation", "test")}
    for seed in asked.seeds:
        for side in asked.rules:
            run(parts, side, seed, asked.steps)


if __name__ == "__main__":
    main()
