"""What the processes of `test_runs` do: runs of `fit` in a grid of ranks beside the same run in one process."""

import os
from typing import Any

import torch
from torch import Tensor, nn

import hbll_seq as hs


class Tagger(nn.Module):
    """A module of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.rnn = nn.LSTM(5, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Unused(Tagger):
    """A module with a weight that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)


class ByCells(Tagger):
    """A module that runs a cell itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 5)


def mean(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(out.flatten(0, 1), y.flatten())


class Stop:
    """A callback of one rank that stops all."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(self, run: hs.History, step: int) -> bool:
        return step == self.after + 1 and torch.distributed.get_rank() == 1


def text(n: int = 3000) -> Tensor:
    g = torch.Generator().manual_seed(5)
    return (torch.randint(0, 3, (n,), generator=g).cumsum(0) + torch.randint(0, 2, (n,), generator=g)) % 7


def series(n: int = 24, steps: int = 96) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(6)
    x = torch.randn(n, steps, 5, generator=g)
    return x, (x.cumsum(1)[..., 0] > 0).long() + 2 * (x[..., 1] > 0).long()


def task(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Return model, data and arguments of a run."""
    x, y = series()
    sizes = dict(hidden=16, seed=1)
    if name == "next":
        return hs.models.CharLM(7, symbols=list("abcdefg"), **sizes), (text(),), dict(window=128, batch_size=6)
    if name == "carried":
        model = hs.models.SequenceModel(7, 7, task="next", input_kind="symbols", layers=2, **sizes)
        return model, (text(),), dict(window=64, batch_size=4, stateful=True)
    if name == "steps":
        lengths = torch.tensor([96 - 3 * i for i in range(24)])
        model = hs.models.SequenceModel(
            5, 4, input_kind="features", layers=2, norm="layer", residual=True, projection=8, **sizes
        )
        return model, ((x, lengths), y), dict(batch_size=7, accumulate=2)
    if name == "sequence":
        model = hs.models.SequenceModel(
            5, 4, task="sequence", input_kind="features", bidirectional=True, cell="lstm", **sizes
        )
        return model, (x, y[:, -1]), dict(batch_size=8)
    if name == "module":
        return Tagger(), (x, y), dict(batch_size=8, loss="cross_entropy", metrics={"right": right})
    module = dict(batch_size=4, loss="cross_entropy", metrics={"right": right})
    if name == "ragged module":
        lengths = torch.tensor([96] + [3 * i + 1 for i in range(23)])
        return Tagger(), ((x, lengths), y), module
    if name == "few targets":  # an epoch of batches of four ends with one sequence; most have no target
        y = torch.where(torch.arange(24)[:, None] % 3 == 0, y, -100)
        return Tagger(), (x[:13], y[:13]), module
    if name == "unused":
        return Unused(), (x, y), module | dict(optimizer="adamw", weight_decay=0.5, lr=1e-2)
    if name == "callable":
        return Tagger(), (x, y), dict(batch_size=5, loss=mean)
    if name == "discounted":
        long, _ = series(32, 600)
        return Tagger(), (long, (long[..., 0] > 0).long()), dict(batch_size=32, loss="cross_entropy", discount=0.2)
    if name == "cells":
        return ByCells(), (x, y), module
    if name == "one target":
        return Tagger(), (x, y[:, -1]), module
    raise ValueError(name)


def right(out: Tensor, y: Tensor) -> Tensor:
    return (out.argmax(-1) == y).float().mean()


def run(name: str, **options: Any) -> tuple[dict[str, Tensor], hs.History]:
    model, data, arguments = task(name)
    arguments = dict(rule="hbll", progress=False, lr=1e-3, seed=4) | arguments | options
    history = hs.fit(model, *data, **arguments)
    return {name: p.detach().clone() for name, p in model.named_parameters()}, history


def beside(group: Any, name: str, data: int, time: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return the largest difference of weights and losses from those of one process."""
    parts = {"micro_batches": options["micro_batches"]} if "micro_batches" in options else {}
    options = {key: value for key, value in options.items() if key not in parts}
    alone, first = run(name, **options)
    spread, second = run(name, **options, parallel={"data": data, "time": time, "timeout": 120, **parts})
    off = {key: float((spread[key] - value).abs().max()) for key, value in alone.items()}
    figures = [one for one in ("loss", "grad_norm", "right", "val_loss") if one in first.history]
    for one in figures:
        pairs = zip(first.history[one], second.history[one], strict=True)
        off[one] = max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)
    what = max(off, key=off.__getitem__)
    moved = sum(float(value.abs().sum()) for value in alone.values())
    return {"off": off[what], "what": what, "weights": moved, "bytes": second.history["bytes_sent"][-1],
            "again": max(second.history["spans_again"]), "sum": [float(v.double().sum()) for v in spread.values()]}  # fmt: skip


def refused(group: Any) -> list[str]:
    found = []
    for options in (
        {"parallel": {"data": 3}}, {"parallel": {"depth": 2}}, {"parallel": 2},
        {"parallel": {"time": 2}, "rule": "tbptt"}, {"parallel": {"time": 2}, "execution": "measured"},
        {"name": "module", "parallel": {"time": 2}, "rule": "bptt", "convert": False},
        {"name": "cells", "parallel": {"time": 2}, "rule": "bptt"},
        {"name": "one target", "parallel": {"time": 2}},
        {"name": "discounted", "parallel": {"time": 2}}, {"parallel": {"time": 2, "micro_batches": 0}},
    ):  # fmt: skip
        try:
            run(**{"name": "steps", "steps": 1} | options)
            found.append("nothing")
        except hs.InputError as error:
            found.append(error.argument)
    return found


def called(group: Any, stops: int) -> int:
    """Return the updates of a run with a callback on rank 1 alone, which stops it before update `stops`."""
    mine = [Stop(stops - 2)] if torch.distributed.get_rank() == 1 else []
    return len(run("steps", steps=6, callbacks=mine, parallel={"data": 2, "timeout": 120})[1].history["loss"])


def diverged(group: Any) -> tuple[str, bool]:
    """Return what a run ends with that diverges from one rank's data, and whether weights are finite."""
    model, (_, y), arguments = task("module")
    x = series()[0]
    x[7] = 3e38  # one rank alone reads it, and its gradient overflows
    try:
        hs.fit(model, x, y, rule="bptt", progress=False, steps=5, batch_size=24, loss="cross_entropy",
               parallel={"data": 2})  # fmt: skip
        what = "nothing"
    except hs.DivergenceError:
        what = "DivergenceError"
    except hs.InputError:
        what = "InputError"
    return what, all(bool(torch.isfinite(p).all()) for p in model.parameters())


def stored(
    group: Any, folder: str, steps: int, parallel: dict[str, Any], resume: bool, stop: int | None = None
) -> list[Tensor]:
    """Train with a checkpoint, perhaps only until an update after `stop` of them; return the weights."""
    os.makedirs(folder, exist_ok=True)
    options: dict[str, Any] = {"checkpoint": os.path.join(folder, "run.ckpt"), "checkpoint_every": 4}
    if stop is not None:
        options["callbacks"] = [Stop(stop)]
    weights, _ = run("steps", steps=steps, resume=resume, parallel=parallel, **options)
    return list(weights.values())
