"""Speech-to-text: strings of spoken digits, by rule, by layer, from log-mel and from raw frames; and while it is spoken.

`datasets.load("digitwords")`: 3 to 7 digits with pauses, four speakers. Either all speakers are heard in training and
takes are held out (`--speakers seen`), or a speaker is (`--speakers jackson theo ...`). Settings were chosen on
validation strings (`--part validation`; of a speaker who is neither trained on nor tested, where `--inner` names one).
Sides: hbll, and BPTT by PyTorch's own layers (`nn.GRU`, `nn.LSTM`), with the same initialisation, data order, updates
and rates. Times are CPU seconds of one thread, from the waves to the trained model. `--report` makes the tables of the
lines in benchmarks/out/speech.jsonl; those of the test part are records, too. `--beside` adds strings by synthetic
voices to the training part. `--clock` measures an update, `--stream` listening.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import hbll_seq as hs
from benchmarks.results import append

LOG = pathlib.Path(__file__).parent / "out" / "speech.jsonl"
SPEAKERS = ["jackson", "nicolas", "theo", "yweweler"]
SIDES: dict[str, dict[str, Any]] = {
    "hbll": {"rule": "hbll"},
    "bptt": {"rule": "bptt"},
    "torch": {"rule": "bptt", "kernels": "torch"},
}
STRINGS = 1024
AUGMENT = '{"noise": [0, 30]}'
# front end and encoder, rate, updates
KINDS: dict[str, dict[str, Any]] = {
    "mel": {"updates": 800, "lr": 3e-3},
    "raw": {"updates": 800, "lr": 3e-3},
    "long": {"updates": 30, "lr": 3e-3},  # raw frames, every one of which the recurrent layers read: for speed
}


def make(data: hs.datasets.Speech, a: argparse.Namespace, seed: int) -> hs.models.Transcriber:
    """An untrained model."""
    options: dict[str, Any] = dict(hidden=64, cell=a.cell, bidirectional=not a.causal, dropout=a.dropout, seed=seed)
    if a.augment:
        options["augment"] = hs.audio.Augment(**json.loads(a.augment))
    if a.kind == "mel":
        return hs.models.Transcriber(data.labels, hs.audio.LogMel(data.rate, mels=20), **options)
    if a.kind == "raw":
        return hs.models.Transcriber(data.labels, hs.audio.Frames(16), **options)
    filters = (64, 9, 8, 1)
    return hs.models.Transcriber(data.labels, hs.audio.Frames(16), filters=filters, conv=(), layers=2, **options)


def beside(folder: pathlib.Path, n: int) -> tuple[list[torch.Tensor], list[str]]:
    """Strings of digits by the voices of a folder, made as the set's own, but for two voices that a set must hold out."""
    voices = sorted({file.stem.split("_", 1)[1].rsplit("_", 1)[0] for file in folder.glob("*.wav")})
    sizes = {"n": n, "n_validation": 1, "n_test": 1}
    return hs.datasets.load("digitwords", held_out=voices[0], validation=voices[1], path=folder, **sizes).train


def one(data: hs.datasets.Speech, a: argparse.Namespace, side: str, seed: int, speaker: str) -> dict[str, Any]:
    """Train and score once; a line of the log."""
    waves, transcripts = data.train
    if a.beside:
        more, told = beside(a.beside, a.strings)
        waves, transcripts = waves + more, transcripts + told
    began = time.process_time()
    model = make(data, a, seed)
    run = hs.fit(
        model, waves, transcripts, steps=a.updates, batch_size=8, lr=a.lr, seed=seed, progress=False, record_every=10**6,
        **SIDES[side],
    )  # fmt: skip
    seconds = time.process_time() - began
    part = getattr(data, a.part)
    line = dict(
        kind=a.kind, cell=a.cell, causal=a.causal, side=side, seed=seed, speaker=speaker, part=a.part, inner=a.inner,
        updates=a.updates, lr=a.lr, dropout=a.dropout, augment=a.augment,
        **({"beside": f"{a.strings} of espeak-ng"} if a.beside else {}),
        schedule=run.history.get("schedule", [""])[-1], loss=statistics.mean(run.history["loss"][-20:]), seconds=seconds,
        error=100 * model.error_rate(*part) if a.score else None,
        beam=100 * model.error_rate(*part, beam_width=8) if a.score and a.beam else None,
    )  # fmt: skip
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
    if a.score and a.part == "test":
        record(line, hs.audio.error_rate(part.transcripts, model.transcribe(part.waves)))
    return line


def record(line: dict[str, Any], errors: hs.audio.ErrorRate) -> None:
    """Put a run of the test part on record: its error rate and the kinds of errors, as shares of the true labels."""
    speaker = line["speaker"]
    task = speaker if speaker == "seen" else f"unseen {speaker}"
    names = ("kind", "cell", "causal", "updates", "lr", "dropout", "augment", "beside")
    append(dict(
        benchmark="speech", task=f"{task}, synthetic voices beside" if "beside" in line else task, rule=line["side"],
        seed=line["seed"], options={name: line[name] for name in names if name in line},
        figures={
            "error_rate": errors.rate, "substitutions": errors.substitutions / errors.total,
            "deletions": errors.deletions / errors.total, "insertions": errors.insertions / errors.total,
            "seconds": line["seconds"],
        },
    ))  # fmt: skip


def report() -> None:
    """Tables of all lines on record."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for text in LOG.read_text().splitlines():
        line = json.loads(text)
        seen = "seen" if line["speaker"] == "seen" else "unseen"
        key = ("kind", "cell", "causal", "side", "part", "inner", "updates", "lr", "dropout", "augment", "beside")
        found[(seen, *(str(line.get(k, "")) for k in key))].append(line)
    print("| speakers | kind, cell, settings | side | error: mean (by speaker) | least..most of runs | runs | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for (seen, kind, cell, causal, side, part, *rest), lines in sorted(found.items()):
        by = defaultdict(list)
        for line in lines:
            by[line["speaker"]].append(line["error"])
        errors = [line["error"] for line in lines if line["error"] is not None]
        seconds = statistics.median(line["seconds"] for line in lines)
        if errors:
            means = {s: statistics.mean(values) for s, values in sorted(by.items())}
            each = ", ".join(f"{s} {m:.1f}" for s, m in means.items())
            what = f"{statistics.mean(means.values()):.1f} ({each}) | {min(errors):.1f}..{max(errors):.1f}"
        else:
            what = "not scored | "
        direction = "one direction" if causal == "True" else "two directions"
        print(f"| {seen}, {part} | {kind}, {cell}, {direction}; {', '.join(rest)} | {side} | {what} | {len(lines)} | {seconds:.1f} |")  # fmt: skip


def stream(a: argparse.Namespace) -> None:
    """Train a causal model, then let it listen: equality with the whole, CPU seconds a second of sound, latency."""
    a.causal = True
    data = hs.datasets.load("digitwords", held_out=None, n=STRINGS)
    model = make(data, a, 100)
    hs.fit(model, *data.train, steps=a.updates, batch_size=8, lr=a.lr, seed=100, progress=False)
    waves, transcripts = data.test
    print(f"error rate, unseen takes: {100 * model.error_rate(waves, transcripts):.2f} %")
    long = torch.cat(waves[:40])
    whole = hs.predict(model, [long])[0]
    for chunk in (80, 160, 800, 8000):
        where, scores, text, slowest, began = None, [], "", 0.0, time.process_time()
        for piece in long.split(chunk):
            start = time.process_time()
            heard, where = model.listen(piece, where)
            slowest = max(slowest, time.process_time() - start)
            scores.append(heard.scores)
            text += heard.text
        heard, where = model.listen(long[:0], where, end=True)
        seconds = time.process_time() - began
        text += heard.text
        gap = float((torch.cat([*scores, heard.scores]) - whole).abs().max())
        assert text == model.transcribe([long])[0]
        print(
            f"chunks of {chunk / 8:.0f} ms: {seconds / (len(long) / 8000):.4f} CPU s a second of sound, slowest chunk "
            f"{1000 * slowest:.1f} ms; largest difference of scores to the whole {gap:.1e}; same text",
            flush=True,
        )


def plain_update(model: Any, batch: hs.Batch, optimizer: torch.optim.Optimizer, packed: bool) -> None:
    """One update as one would write it with PyTorch alone, around the same encoder, layers and read-out.

    Packed, it is the same function; padded, the backward direction reads the padding, which is faster and not the same.
    """
    optimizer.zero_grad()
    x, lengths = model.encoder(batch.x, batch.lengths)
    if packed:
        x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out = model.recurrent.rnn(x)[0]
    if packed:
        out = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]
    scores = model.recurrent.readout(out).log_softmax(-1).transpose(0, 1)
    nn.functional.ctc_loss(scores, batch.y, lengths, batch.target_lengths).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def clock(a: argparse.Namespace) -> None:
    """CPU milliseconds of an update, sides in turn on the same batches, after the front end; medians."""
    data = hs.datasets.load("digitwords", held_out=None, n=64)
    a.augment = ""
    model = make(data, a, 100)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    ours = {name: hs.rules.make(SIDES[name]["rule"]) for name in ("hbll", "bptt")}
    for rule in ours.values():
        rule.setup(model, torch.Generator())
    sides: dict[str, Callable[[hs.Batch], Any]] = {
        name: partial(hs.step, model, rule=rule, optimizer=optimizer) for name, rule in ours.items()
    }
    for name, packed in (("PyTorch alone, packed", True), ("padded", False)):
        sides[name] = partial(plain_update, model, optimizer=optimizer, packed=packed)
    source = model.make_source(*data.train)
    taken, steps = defaultdict[str, list[float]](list), list[int]()
    for i in range(3 + a.updates):
        batch = source.batch(i % 6, 8, 0)
        steps += model.encoder.steps(batch.lengths).tolist()
        for name, update in sides.items():
            began = time.process_time()
            update(batch)
            if i >= 3:
                taken[name].append(1000 * (time.process_time() - began))
    figures = ", ".join(f"{name} {statistics.median(ms):.1f}" for name, ms in taken.items())
    length = f"{statistics.mean(steps):.0f} on average, {max(steps)} at most"
    print(f"{a.kind}, {a.cell}, batches of 8, time steps of the recurrent layers {length}: {figures} ms", flush=True)


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kind", choices=list(KINDS), default="mel")
    p.add_argument("--sides", nargs="+", choices=list(SIDES), default=["hbll"])
    p.add_argument("--cell", default="gru")
    p.add_argument("--causal", action="store_true", help="one direction")
    p.add_argument("--speakers", nargs="+", default=["seen"], metavar="SPEAKER", help='"seen", or speakers to hold out')
    p.add_argument("--inner", action="store_true", help="validate on the speaker after the one held out")
    p.add_argument("--part", choices=["validation", "test"], default="test")
    p.add_argument("--seeds", type=int, nargs="+", default=[100])
    p.add_argument("--updates", type=int)
    p.add_argument("--lr", type=float)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--augment", default=AUGMENT, help="arguments of audio.Augment as JSON; empty for none")
    p.add_argument("--beside", type=pathlib.Path, help="folder of digits by other voices (datasets/espeak_corpus.py)")
    p.add_argument("--strings", type=int, default=STRINGS, help="training strings by these voices")
    p.add_argument("--beam", action="store_true", help="score a beam of 8, too")
    p.add_argument("--no-score", dest="score", action="store_false", help="time alone")
    p.add_argument("--report", action="store_true")
    p.add_argument("--stream", action="store_true")
    p.add_argument("--clock", action="store_true", help="CPU milliseconds of an update")
    a = p.parse_args()
    a.updates, a.lr = a.updates or KINDS[a.kind]["updates"], a.lr or KINDS[a.kind]["lr"]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # denormals slow PyTorch's LSTM three times
    if a.report:
        return report()
    if a.stream:
        return stream(a)
    if a.clock:
        return clock(a)
    sets: dict[str, hs.datasets.Speech] = {}
    for seed in a.seeds:
        for speaker in a.speakers:
            held_out = None if speaker == "seen" else speaker
            inner = SPEAKERS[(SPEAKERS.index(speaker) + 1) % 4] if a.inner and held_out else None
            if speaker not in sets:
                sets[speaker] = hs.datasets.load("digitwords", held_out=held_out, validation=inner, n=STRINGS)
            for side in a.sides:
                one(sets[speaker], a, side, seed, speaker)


if __name__ == "__main__":
    main()
