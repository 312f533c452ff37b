"""A keyword in a long recording, heard as it streams: `python -m benchmarks.keyword [--fsdd SPEAKER] [--seconds 60]`.

A tagger on log-mel is trained by hbll on four-second pieces to say, at every step, whether the keyword ended within the last
fifth of a second. Then it listens to a recording of `--seconds`, chunk by chunk, in constant memory. Printed: words found, false
alarms, latency from the word's end to the alarm (in sound: what has to be heard first), and computing time per second of sound.
Words are rising and falling chirps, made here; with `--fsdd` spoken digits (HBLL_SEQ_DATA), the speaker of the long
recording not among those of the training; the keyword is "seven".
"""

import argparse
import statistics
import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

import hbll_seq as hs

RATE, WORDS, KEY = 8000, 10, 7
AFTER = RATE // 5  # samples after its end in which the word is to be reported
REST = RATE // 2  # samples after an alarm without another


class Recording(NamedTuple):
    """Wave `(samples,)` and the ends of its keywords in samples."""

    wave: Tensor
    ends: list[int]


def chirps(g: torch.Generator, count: int) -> list[list[Tensor]]:
    """`count` utterances of every word: two sweeps of 120 ms, up or down, at one of two heights, of varied tempo."""
    words = []
    for word in range(WORDS):
        spoken = []
        for _ in range(count):
            size = int(RATE * 0.12 * (0.8 + 0.4 * float(torch.rand(1, generator=g))))
            t = torch.linspace(0, 1, size)
            parts = []
            for k in range(2):
                low = 400 * (1 + (word >> (2 * k + 1) & 1)) * (0.9 + 0.2 * float(torch.rand(1, generator=g)))
                sweep = t if word >> (2 * k) & 1 else 1 - t
                parts.append(
                    torch.hann_window(size) * torch.sin(torch.cumsum(low * (1 + sweep), 0) * 2 * torch.pi / RATE)
                )
            spoken.append(torch.cat(parts))
        words.append(spoken)
    return words


def digits(held_out: str) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Spoken digits: of all other speakers, and of the one held out."""
    d = hs.datasets.load("fsdd", steps=512, samples_per_step=8, held_out=held_out, normalise="rms")

    def words(x: Tensor, y: Tensor, lengths: Any) -> list[list[Tensor]]:
        waves = [w[: 8 * int(n)] for w, n in zip(x.flatten(1), lengths, strict=True)]
        return [[w for w, digit in zip(waves, y.tolist(), strict=True) if digit == k] for k in range(WORDS)]

    return words(d.train_x, d.train_y, d.train_lengths), words(d.test_x, d.test_y, d.test_lengths)


def record(words: list[list[Tensor]], samples: int, g: torch.Generator) -> Recording:
    """Words in random order with pauses of 0.1 to 0.6 s, faint noise; every fourth is the keyword or so."""
    wave, at, ends = 0.02 * torch.randn(samples, generator=g), 0, []
    while True:
        at += int(RATE * (0.1 + 0.5 * float(torch.rand(1, generator=g))))
        word = KEY if float(torch.rand(1, generator=g)) < 0.2 else int(torch.randint(WORDS, (1,), generator=g))
        one = words[word][int(torch.randint(len(words[word]), (1,), generator=g))]
        if at + len(one) + AFTER > samples:
            return Recording(wave, ends)
        wave[at : at + len(one)] += 0.2 * one / one.square().mean().sqrt().clamp(min=1e-3)
        at += len(one)
        if word == KEY:
            ends.append(at)


def labels(recording: Recording, front: hs.audio.Front, steps: int) -> Tensor:
    """`(steps,)` int64: 1 where the window's end lies within `AFTER` of a keyword's end."""
    now = torch.arange(steps) * front.hop + front.window
    y = torch.zeros(steps, dtype=torch.int64)
    for end in recording.ends:
        y[(now >= end) & (now < end + AFTER)] = 1
    return y


def listen(model: Any, wave: Tensor, chunk: int, threshold: float) -> tuple[list[int], list[float]]:
    """Samples heard at every alarm, and seconds of computing of every chunk."""
    alarms, taken, where, heard = [], [], None, 0
    for piece in wave.split(chunk):
        began = time.perf_counter()
        logits, where = model.listen(piece, where)
        heard += len(piece)
        loud = len(logits) and float(logits.softmax(-1)[:, 1].max()) > threshold
        taken.append(time.perf_counter() - began)
        if loud and (not alarms or heard - alarms[-1] > REST):
            alarms.append(heard)
    return alarms, taken


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fsdd", metavar="SPEAKER")
    p.add_argument("--rule", default="hbll")
    p.add_argument("--seconds", type=int, default=60)
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--chunk", type=int, default=160, help="samples that arrive at a time")
    p.add_argument("--threshold", type=float, default=0.5)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    g = torch.Generator().manual_seed(a.seed)
    train, held = (chirps(g, 40), chirps(g, 20)) if a.fsdd is None else digits(a.fsdd)
    front = hs.audio.LogMel(RATE, mels=20, window=32, hop=16)
    pieces = [record(train, 4 * RATE, g) for _ in range(384)]
    x, _ = front([one.wave for one in pieces])
    y = torch.stack([labels(one, front, x.shape[1]) for one in pieces])
    model = hs.models.AudioTagger(2, front, hidden=64, timescale=100.0, seed=a.seed)
    run = hs.fit(model, x, y, rule=a.rule, steps=a.steps, batch_size=16, lr=8e-3, seed=a.seed, validation=None)
    long = record(held, a.seconds * RATE, g)
    alarms, taken = listen(model.eval(), long.wave, a.chunk, a.threshold)
    delays, used = [], set()
    for end in long.ends:
        near = [t for t in alarms if end - AFTER <= t < end + 2 * AFTER and t not in used]
        if near:
            used.add(near[0])
            delays.append(near[0] - end)
    false = len(alarms) - len(used)
    what = "chirps" if a.fsdd is None else f"digits, speaker {a.fsdd} never heard before"
    print(f"\n{what}; {a.rule}, {a.steps} steps, loss {run.history['loss'][-1]:.3f}; {a.seconds} s of sound in chunks of {1000 * a.chunk / RATE:.0f} ms")  # fmt: skip
    print(f"found {len(delays)} of {len(long.ends)} keywords, {60 * false / a.seconds:.1f} false alarms a minute")
    if delays:
        ms = sorted(1000 * d / RATE for d in delays)
        print(f"latency after the word's end: median {statistics.median(ms):.0f} ms, {ms[0]:.0f} to {ms[-1]:.0f} ms")
    print(
        f"computing: {1000 * sum(taken) / a.seconds:.1f} ms a second of sound, slowest chunk {1000 * max(taken):.1f} ms"
    )


if __name__ == "__main__":
    main()
