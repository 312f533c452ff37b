"""What fresh copies of the sounds in every epoch are worth: spoken digits, one speaker held out after another.

    python -m benchmarks.augmentation [--steps 600 --seeds 0]    (needs HBLL_SEQ_DATA)

Log-mel of 20 bands normalised by the training speakers, a GRU of 64 units, hbll; equal updates, data order and rates for
all settings of `hs.audio.Augment`, beside copies made once (`hs.audio.vary`, 8 of each) and none. Accuracy in percent of the
deployed chain on the unseen speaker, after the last update; nothing is chosen on it. Seconds are CPU time of `fit`.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import torch
from torch import Tensor

import hbll_seq as hs
from hbll_seq.audio import Augment

LOG = pathlib.Path(__file__).parent / "out" / "augmentation.jsonl"
SPEAKERS = ("jackson", "nicolas", "theo", "yweweler")
MASKS = dict(bands=4, steps=6)
SETTINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "copies": None,  # made once
    "colour": dict(colour=1.0),
    "colour, masks": dict(colour=1.0, **MASKS),
    "colour, noise": dict(colour=1.0, noise=(5, 30)),
    "colour, speed": dict(colour=1.0, speed=0.1),
    "all": dict(colour=1.0, noise=(5, 30), speed=0.1, **MASKS),
}


class Normal(hs.audio.LogMel):
    """A log-mel front end with the mean and scale of the training sounds."""

    def __init__(self, waves: list[Tensor]) -> None:
        super().__init__(8000, mels=20)
        every = torch.cat([super(Normal, self).steps(one) for one in waves])
        self.mean, self.scale = every.mean(0), every.std(0)

    def steps(self, wave: Tensor) -> Tensor:
        return (super().steps(wave) - self.mean) / self.scale


def sounds(speaker: str) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor]:
    d = hs.datasets.load("fsdd", steps=512, samples_per_step=8, held_out=speaker, normalise="rms")
    assert d.train_lengths is not None and d.test_lengths is not None
    cut = [
        [w[: 8 * int(n)] for w, n in zip(x.flatten(1), lengths, strict=True)]
        for x, lengths in ((d.train_x, d.train_lengths), (d.test_x, d.test_lengths))
    ]
    return cut[0], d.train_y, cut[1], d.test_y


def train(name: str, speaker: str, seed: int, steps: int) -> dict[str, Any]:
    waves, y, held, held_y = sounds(speaker)
    options = SETTINGS[name]
    if name == "copies":
        waves, y = waves + hs.audio.vary(waves, copies=8), y.repeat(9)
    augment = None if options is None else Augment(**options)
    model = hs.models.AudioClassifier(10, Normal(waves), hidden=64, seed=seed, augment=augment)
    began = time.process_time()
    hs.fit(model, waves, y, steps=steps, batch_size=32, lr=8e-3, seed=seed, progress=False)
    seconds = time.process_time() - began
    accuracy = 100 * hs.evaluate(model, held, held_y)["accuracy"]
    return dict(setting=name, speaker=speaker, seed=seed, steps=steps, accuracy=accuracy, seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--speakers", nargs="+", default=list(SPEAKERS))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    a = parser.parse_args()
    torch.set_num_threads(1)
    LOG.parent.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = []
    for seed in a.seeds:
        for speaker in a.speakers:
            for name in a.settings:
                found.append(train(name, speaker, seed, a.steps))
                with LOG.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
                print(
                    f"{name}, {speaker}, seed {seed}: {found[-1]['accuracy']:.1f} %, {found[-1]['seconds']:.0f} s",
                    flush=True,
                )
    print(f"\n| setting | {' | '.join(a.speakers)} | mean | CPU s |\n|---|{'---|' * (len(a.speakers) + 2)}")
    for name in a.settings:
        mine = [one for one in found if one["setting"] == name]
        each = [statistics.mean(one["accuracy"] for one in mine if one["speaker"] == s) for s in a.speakers]
        cpu = statistics.mean(one["seconds"] for one in mine)
        print(f"| {name} | {' | '.join(f'{v:.1f}' for v in each)} | {statistics.mean(each):.1f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
