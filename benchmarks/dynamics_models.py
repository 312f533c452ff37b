"""Models whose dynamics do not forget, or are chaotic, and the data they run on: `build(name)`, `data(name, B, T)`.

What takes training is trained once and kept under `benchmarks/out/models/`. Training goes by exact gradients
(`execution="sequential"`, `discount=1`), so that the weights do not depend on what is under test.

`python -m benchmarks.dynamics_models [names]` trains them all and prints their losses.
"""

import argparse
import inspect
import itertools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.models import SequenceModel

CACHE = pathlib.Path(__file__).parent / "out" / "models"
HBLL_OPTIONS = frozenset(inspect.signature(hs.rules.HBLL).parameters)
BPTT_OPTIONS = frozenset(inspect.signature(hs.rules.make("bptt").__class__).parameters)
TEXT_STEPS = 256
PULL_BACK = 0.02  # of the counter's walk, to the middle: it stays within about 30


class Dynamics(NamedTuple):
    """One model of the family.

    Attributes:
        make: the model, untrained.
        draw: inputs and targets of `B` sequences of `T` steps from a generator.
        train: options of `fit` and the number of sequences of 64 steps; None where nothing is trained.
        about: one phrase for tables.
    """

    make: Callable[[], SequenceModel]
    draw: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]
    train: dict[str, Any] | None
    about: str


def supported(**options: Any) -> dict[str, Any]:
    """Those of the options that this version's `hbll` has."""
    return {name: value for name, value in options.items() if name in HBLL_OPTIONS}


def parity(b: int, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randint(2, (b, t), generator=g)
    return x, x.cumsum(1) % 2


def word_problem(letters: int) -> Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]:
    """Running product in the symmetric group; inputs are the identity, a swap and a cycle."""
    elements = list(itertools.permutations(range(letters)))
    index = {e: i for i, e in enumerate(elements)}
    table = torch.tensor([[index[tuple(a[j] for j in b)] for b in elements] for a in elements])
    same, swap = tuple(range(letters)), (1, 0, *range(2, letters))
    inputs = torch.tensor([index[e] for e in (same, swap, (*range(1, letters), 0))])

    def draw(b: int, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(3, (b, t), generator=g)
        y = inputs[x]
        for i in range(1, t):
            y[:, i] = table[y[:, i - 1], y[:, i]]
        return x, y

    return draw


def held_bit(b: int, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbol 0: keep; 1 and 2: set the bit. Set at the first step and at two more, or one in 500 where that is more."""
    kind, rare = torch.randint(1, 3, (b, t), generator=g), torch.rand(b, t, generator=g) < max(2 / t, 0.002)
    rare[:, 0] = True
    x = kind * rare
    at = torch.where(rare, torch.arange(t), 0).cummax(1).values
    return x, x.gather(1, at) - 1


def walk(b: int, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbols -1 and +1 (as 0 and 1); the target is their sum so far, over ten."""
    u, total = torch.rand(b, t, generator=g), torch.zeros(b)
    x, y = torch.zeros(b, t, dtype=torch.long), torch.zeros(b, t, 1)
    for i in range(t):
        x[:, i] = (u[:, i] < 0.5 - PULL_BACK * total).long()
        total = total + 2 * x[:, i] - 1
        y[:, i, 0] = total / 10
    return x, y


def random_symbols(b: int, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randint(8, (b, t), generator=g), torch.randint(8, (b, t), generator=g)


def text(b: int, t: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Held-out tiny Shakespeare, repeated where it is shorter than what is asked for."""
    valid = hs.datasets.load("tinyshakespeare").valid
    at = torch.randint(len(valid), (b,), generator=g)
    rows = torch.stack([valid[torch.arange(i, i + t + 1) % len(valid)] for i in at.tolist()])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def _words(cell: str, letters: int) -> Callable[[], SequenceModel]:
    outputs = len(list(itertools.permutations(range(letters))))
    return lambda: SequenceModel(3, outputs, hidden=128, cell=cell, timescale=None)


def _latch(recurrent: bool) -> SequenceModel:
    """Unit 0 of a GRU holds the bit: by its update gate, or as an attractor of tanh(4 h) that the gate ignores."""
    model = SequenceModel(3, 2, hidden=16, timescale=None)
    d = 16
    with torch.no_grad():
        rnn: Any = model.rnn
        table = model.embedding
        assert table is not None
        for p in rnn.parameters():  # the other units stay random and small, and do not touch unit 0
            p.mul_(0.5)
        w_ih, w_hh, b_ih, b_hh = rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0
        for gate in range(3):
            w_ih[gate * d], w_hh[gate * d], b_ih[gate * d], b_hh[gate * d] = 0, 0, 0, 0
        table.weight[:, :2] = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1.0, 1.0]])  # whether, and what
        if recurrent:
            b_ih[0] = 6.0  # r = 1
            w_ih[d, 0] = -12.0  # z = 1/2, and 0 where set
            w_hh[2 * d, 0], w_ih[2 * d, 1] = 4.0, 12.0
        else:
            b_ih[d], w_ih[d, 0] = 14.0, -28.0  # z = 1 until set
            w_ih[2 * d, 1] = 4.0
        model.readout.weight[:, 0] = torch.tensor([-3.0, 3.0])
    return model


def _elman(radius: float, drive: float = 1.0) -> SequenceModel:
    model = SequenceModel(8, 8, hidden=64, cell="elman", timescale=None)
    with torch.no_grad():
        g = torch.Generator().manual_seed(1)
        w = torch.randn(64, 64, generator=g)
        rnn: Any = model.rnn
        rnn.weight_ih_l0.mul_(drive)
        rnn.weight_hh_l0.copy_(w * (radius / torch.linalg.eigvals(w).abs().max()))
    return model


def _times(factor: float, cell: str = "gru", inputs: float | None = None) -> SequenceModel:
    """All weights, or only the recurrent ones and those of the inputs by a factor of their own, times `factor`."""
    model = SequenceModel(8, 8, hidden=64, cell=cell, timescale=None)
    with torch.no_grad():
        for name, p in model.rnn.named_parameters():
            p.mul_(inputs if inputs is not None and not name.startswith("weight_hh") else factor)
    return model


def _text(cell: str) -> Callable[[], SequenceModel]:
    def make() -> SequenceModel:
        size = hs.datasets.load("tinyshakespeare").vocab_size
        return SequenceModel(size, size, hidden=128, cell=cell, task="next")

    return make


_TRACK: dict[str, Any] = dict(n=51200, steps=1600, batch_size=32, lr=4e-3)
_TWICE = {**_TRACK, "steps": 3200}  # with 1600 steps some seeds solve S5, seed 0 does not
_READ: dict[str, Any] = dict(n=600 * 16, steps=600, batch_size=16, lr=8e-3)
FAMILY: dict[str, Dynamics] = {
    "parity": Dynamics(
        lambda: SequenceModel(2, 2, hidden=64, timescale=None),
        parity,
        dict(n=6400, steps=200, batch_size=32, lr=8e-3),
        "GRU 64, trained on running parity",
    ),
    "s3": Dynamics(
        _words("gru", 3), word_problem(3), {**_TRACK, "n": 4000}, "GRU 128, trained on the word problem of S3"
    ),
    "s5": Dynamics(_words("gru", 5), word_problem(5), _TWICE, "GRU 128, trained on the word problem of S5"),
    "latch-gate": Dynamics(lambda: _latch(False), held_bit, None, "GRU 16, a bit held by the update gate"),
    "latch-loop": Dynamics(lambda: _latch(True), held_bit, None, "GRU 16, a bit held by an attractor"),
    "latch": Dynamics(
        lambda: SequenceModel(3, 2, hidden=32, timescale=None),
        held_bit,
        dict(n=6400, steps=400, batch_size=32, lr=8e-3),
        "GRU 32, trained to hold a bit until set again",
    ),
    "counter": Dynamics(
        lambda: SequenceModel(2, 1, hidden=32, cell="lstm", objective="mse", timescale=None),
        walk,
        dict(n=4000, steps=1200, batch_size=32, lr=8e-3),
        "LSTM 32, trained to count up and down",
    ),
    "elman-1.5": Dynamics(lambda: _elman(1.5), random_symbols, None, "Elman 64, spectral radius 1.5, untrained"),
    "elman-2": Dynamics(lambda: _elman(2.0), random_symbols, None, "Elman 64, spectral radius 2, untrained"),
    "elman-2-quiet": Dynamics(
        lambda: _elman(2.0, 0.1), random_symbols, None, "the same, inputs a tenth as large: moves by itself"
    ),
    "gru-x6": Dynamics(lambda: _times(6.0), random_symbols, None, "GRU 64, weights six times as large, untrained"),
}
OTHERS: dict[str, Dynamics] = {
    "s5-lstm": Dynamics(_words("lstm", 5), word_problem(5), _TWICE, "LSTM 128, trained on the word problem of S5"),
    "fresh-gru": Dynamics(_text("gru"), text, None, "GRU 128, untrained, on text"),
    "fresh-lstm": Dynamics(_text("lstm"), text, None, "LSTM 128, untrained, on text"),
    "text-gru": Dynamics(_text("gru"), text, _READ, "GRU 128, trained on text"),
    "text-lstm": Dynamics(_text("lstm"), text, _READ, "LSTM 128, trained on text"),
    "s3-lstm": Dynamics(_words("lstm", 3), word_problem(3), _TRACK, "LSTM 128, trained on the word problem of S3"),
    "gru-x3": Dynamics(lambda: _times(3.0), random_symbols, None, "GRU 64, weights three times as large, untrained"),
    "gru-chaos": Dynamics(
        lambda: _times(12.0, inputs=0.5), random_symbols, None, "GRU 64, recurrent weights 12 times, untrained"
    ),
    "lstm-chaos": Dynamics(
        lambda: _times(12.0, "lstm", inputs=1.0), random_symbols, None, "LSTM 64, recurrent weights 12 times, untrained"
    ),
    "elman-1.8": Dynamics(lambda: _elman(1.8), random_symbols, None, "Elman 64, spectral radius 1.8, untrained"),
    "elman-2.5": Dynamics(lambda: _elman(2.5), random_symbols, None, "Elman 64, spectral radius 2.5, untrained"),
    "elman-1": Dynamics(lambda: _elman(1.0), random_symbols, None, "Elman 64, spectral radius 1, untrained"),
    "elman-1.2": Dynamics(lambda: _elman(1.2), random_symbols, None, "Elman 64, spectral radius 1.2, untrained"),
}
ALL = {**FAMILY, **OTHERS}


def data(name: str, b: int, t: int, seed: int = 0) -> Batch:
    """A batch that no training has seen."""
    x, y = ALL[name].draw(b, t, torch.Generator().manual_seed(1000 + seed))
    return Batch(x, torch.full((b,), t), y, torch.ones(b, t, dtype=torch.bool))


def build(name: str) -> SequenceModel:
    """The model, trained where its recipe says so, from the cache where it is there."""
    one = ALL[name]
    model = one.make()
    if one.train is None:
        return model
    path = CACHE / f"{name}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    options = dict(one.train)
    n = options.pop("n")
    common: dict[str, Any] = dict(rule="hbll", execution="sequential", progress=False)
    if name.startswith("text"):
        whole = hs.datasets.load("tinyshakespeare").train
        hs.fit(model, whole, window=TEXT_STEPS, **options, **common)
    else:
        x, y = one.draw(n, 64, torch.Generator().manual_seed(0))
        hs.fit(model, x, y, discount=1.0, **options, **common)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help=", ".join(ALL))
    for name in p.parse_args().names or ALL:
        start = time.perf_counter()
        model, batch = build(name), data(name, 32, 512)
        seconds = time.perf_counter() - start
        found = hs.evaluate(model, batch.x, None if model.task == "next" else batch.y)
        print(f"{name}: {ALL[name].about}; loss at T=512 {float(found['loss']):.5f} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
