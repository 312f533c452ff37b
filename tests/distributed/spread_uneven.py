"""What the processes of `test_uneven` do: runs of `fit` in float64 with short batches, unequal lengths, losses of whole
sequences or little memory, beside the same run in one process.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import spread_runs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

import hbll_seq as hs
from hbll_seq.cells import Cell

EXACT = {"execution": "sequential", "discount": 1.0}
LENGTHS = [40, 1, 22, 19, 3, 40, 2, 33, 1, 20, 21, 7, 13]


class Packing(spread_runs.Tagger):
    """A module that packs, and gives its outputs the length of its inputs, or tells theirs, or neither."""

    def __init__(self, ends: str) -> None:
        super().__init__()
        self.ends = ends

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        total = x.shape[1] if self.ends == "total" else None
        out, n = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=total)
        return (self.head(out), n) if self.ends == "told" else self.head(out)


class Halving(spread_runs.Tagger):
    """A module whose outputs have half the time steps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, ::2]


class Batches(IterableDataset):
    """Batches as they are."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def whole_mean(out: Tensor, y: Tensor, lengths: Tensor) -> Tensor:
    """Return a loss that mixes the time steps of a sequence."""
    inside = torch.arange(out.shape[1])[None] < lengths[:, None]
    sums = (out[..., 0].tanh() * inside).sum(1)
    return (sums - (y[:, :1] * inside).sum(1).to(out)).square().mean()


def data(name: str) -> Any:
    """Return x and y of a run: in memory, as a list, or a DataLoader with short batches."""
    x, y = spread_runs.series(13, 40)
    x, lengths = x.double(), torch.tensor(LENGTHS)
    if name == "rows":  # the last batch has one sequence
        return (DataLoader(TensorDataset(x, y), batch_size=4),)
    if name == "steps":  # some batches have fewer time steps than ranks, or credit blocks
        cuts = ((0, 4, 40), (4, 8, 1), (8, 12, 7), (12, 13, 1))
        return (DataLoader(Batches([(x[a:b, :t], y[a:b, :t]) for a, b, t in cuts]), batch_size=None),)
    if name == "ragged":
        return (x, lengths), y
    if name == "list":
        return [a[:n] for a, n in zip(x, LENGTHS, strict=True)], [a[:n] for a, n in zip(y, LENGTHS, strict=True)]
    if name == "labels":
        return (x, lengths.clamp(min=8)), torch.randint(1, 4, (13, 3), generator=torch.Generator().manual_seed(0))
    return x, y


def model(**options: Any) -> Any:
    return hs.models.SequenceModel(5, 4, input_kind="features", hidden=16, seed=1, **options).double()


def task(name: str) -> tuple[nn.Module, Any, dict[str, Any]]:
    tagger, entropy = lambda: spread_runs.Tagger().double(), dict(loss="cross_entropy", batch_size=4, steps=4)
    if name in ("rows", "steps"):
        return tagger(), data(name), entropy
    if name == "first short":  # and the last one, too
        x, y = data("list")
        return tagger(), (DataLoader(Batches([(a[None], b[None]) for a, b in zip(x[1:], y[1:], strict=True)]),
                                     batch_size=None),), entropy  # fmt: skip
    if name == "list":  # one sequence a batch; some are shorter than a credit block
        return model(layers=2), data("list"), dict(batch_size=1, steps=13, discount="auto", block_size=8)
    if name == "accumulate":
        return model(bidirectional=True), data("list"), dict(batch_size=1, steps=4, accumulate=3)
    if name == "sequence":
        (x, lengths), y = data("ragged")
        return model(task="sequence", bidirectional=True, cell="lstm"), ((x, lengths), y[:, 0]), dict(batch_size=4)
    if name == "streams":  # the last window has one time step
        long = spread_runs.text(402)
        net = hs.models.SequenceModel(7, 7, task="next", input_kind="symbols", layers=2, hidden=8, seed=1).double()
        return net, (long,), dict(window=50, batch_size=1, stateful=True, epochs=2)
    if name.startswith("packed"):
        return Packing(name.split()[1]).double(), data("ragged"), entropy
    if name == "ctc":
        return tagger(), data("labels"), dict(entropy, loss="ctc", metrics={"size": size})
    if name == "ctc sum":
        weight = torch.arange(13.0)
        arguments = dict(entropy, loss=nn.CTCLoss(reduction="sum"), sample_weight=weight, lr=1e-4)
        return Packing("bare").double(), data("labels"), arguments
    if name == "sum at ends":  # SGD: Adam does not see a gradient's size
        net, (x, y) = model(task="sequence", bidirectional=True), data("plain")
        return (
            net,
            (x, y[:, -1]),
            dict(batch_size=4, steps=4, optimizer="sgd", loss=nn.CrossEntropyLoss(reduction="sum")),
        )
    if name == "values at ends":  # as many as there are time steps, by chance
        net = hs.models.SequenceModel(5, 40, input_kind="features", hidden=16, task="sequence", objective="mse", seed=1)
        x, _ = data("plain")
        return net.double(), (x, x[..., 0] + 1), dict(batch_size=4, steps=4)
    if name == "callable":
        return model(), data("ragged"), dict(batch_size=4, steps=4, loss=whole_mean)
    if name == "memory":  # one layer, whose loss one process takes block by block
        return model(), spread_runs.series(3, 300), dict(batch_size=3, steps=3, memory="20kB")
    if name == "memory deep":
        return model(layers=2, bidirectional=True), spread_runs.series(3, 300), dict(batch_size=3, steps=3, group=2)
    raise ValueError(name)


def size(out: Tensor, y: Any) -> Tensor:
    return out.square().mean()


def run(name: str, **options: Any) -> tuple[dict[str, Tensor], hs.History]:
    net, given, arguments = task(name)
    history = hs.fit(net, *given, **dict(rule="hbll", progress=False, lr=1e-3, seed=4) | EXACT | arguments | options)
    return {key: p.detach().clone() for key, p in net.named_parameters()}, history


def beside(group: Any, names: list[str], parallel: dict[str, int]) -> dict[str, float]:
    """Return by name of the run the largest difference of weights, losses and metrics from those of one process."""
    found = {}
    for name in names:
        alone, first = run(name)
        many, second = run(name, parallel={**parallel, "timeout": 120})
        off = [float((alone[key] - many[key]).abs().max()) for key in alone]
        for figure in ("loss", "grad_norm", *(["size"] if name == "ctc" else [])):
            pairs = zip(first.history[figure], second.history[figure], strict=True)
            off += [abs(a - b) / max(1.0, abs(a)) for a, b in pairs]
        found[name] = max(off)
    return found


def first_short(group: Any) -> tuple[float, list[str]]:
    """Return what `beside` does for a run whose first batch has one time step, and its warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        off = beside(group, ["first short"], {"time": 2})["first short"]
    return off, [str(one.message) for one in said]


def in_flight(group: Any, kind: str, memory: str | None) -> int:
    """Return the most time steps times sequences whose activations one roll kept on this rank."""
    most = 0
    plain = {name: getattr(Cell, name) for name in ("roll", "whole")}

    def counted(name: str) -> Any:
        def call(self: Cell, x: Tensor, *args: Any, keep: bool, **options: Any) -> Any:
            nonlocal most
            most = max(most, x.shape[0] * x.shape[1] if keep else 0)
            return plain[name](self, x, *args, keep=keep, **options)

        return call

    try:
        for name in plain:
            setattr(Cell, name, counted(name))
        x, y = spread_runs.series(2, 4000)
        options: dict[str, Any] = {"memory": memory} | (EXACT if kind == "hbll" else {})
        hs.fit(model(timescale=4.0), x, y, rule=kind, progress=False, batch_size=2, steps=1, **options,
               parallel={"time": 2, "timeout": 120})  # fmt: skip
    finally:
        for name, function in plain.items():
            setattr(Cell, name, function)
    return most


def refused(group: Any) -> list[str]:
    """Return what is refused on this rank: other data than on the other, and outputs without their time steps."""
    found = []
    x, y = data("plain")
    mine = DataLoader(TensorDataset(x, y), batch_size=4, sampler=DistributedSampler(TensorDataset(x, y)))
    assert dist.get_world_size() == 2
    order = torch.randperm(13, generator=torch.Generator().manual_seed(dist.get_rank()))
    for net, given, axis, loss in (
        (spread_runs.Tagger().double(), (mine,), "data", "cross_entropy"),
        (spread_runs.Tagger().double(), (x[order], y[order]), "data", "cross_entropy"),  # one batch, the same sequences
        (Halving().double(), data("labels"), "time", "ctc"),
    ):
        try:
            hs.fit(net, *given, loss=loss, progress=False, steps=1, batch_size=13,
                   parallel={axis: 2, "timeout": 120})  # fmt: skip
            found.append("nothing")
        except hs.InputError as error:
            found.append(f"{error.argument}: {error.got}")
    return found
