"""The tasks that rules are compared on: model, training batches, held-out batch.

Every task gives the same to every rule: same cell, width, initialisation (seed), data order (seed).
Real data come from `HBLL_SEQ_DATA` (see the README of `datasets/`); synthetic ones are drawn fresh.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from hbll_seq import datasets
from hbll_seq.data.batch import Batch
from hbll_seq.datasets import synthetic
from hbll_seq.models import SequenceModel


class Task(NamedTuple):
    """Constructor arguments of the model, a sampler of training batches, the held-out batch."""

    model: dict[str, Any]
    sample: Callable[[Generator], Batch]
    test: Batch


def _full(x: Tensor, y: Tensor) -> Batch:
    return Batch(x, torch.full((x.shape[0],), x.shape[1]), y, None)


def shakespeare(steps: int = 256, batch: int = 16, hidden: int = 128) -> Task:
    """Next character of tiny Shakespeare; held out: the last 115,394 characters, cut in windows, up to 65,536."""
    text = datasets.load("tinyshakespeare")

    def sample(g: Generator) -> Batch:
        at = torch.randint(len(text.train) - steps - 1, (batch,), generator=g)
        w = torch.stack([text.train[i : i + steps + 1] for i in at])
        return _full(w[:, :-1].contiguous(), w[:, 1:].contiguous())

    n = min(len(text.valid) // (steps + 1), 65536 // steps)
    w = text.valid[: n * (steps + 1)].view(n, steps + 1)
    model = dict(input_size=text.vocab_size, output_size=text.vocab_size, hidden=hidden, task="next")
    return Task(model, sample, _full(w[:, :-1].contiguous(), w[:, 1:].contiguous()))


def _synthetic(draw: Callable[[int, Generator], tuple[Tensor, Tensor]], batch: int, model: dict[str, Any]) -> Task:
    test = _full(*draw(256, Generator().manual_seed(999)))
    return Task(model, lambda g: _full(*draw(batch, g)), test)


def recall(steps: int = 1024, batch: int = 32, hidden: int = 64, symbols: int = 8, timescale: float = 1000.0) -> Task:
    """Name the first symbol after `steps` symbols; `timescale` is the longest memory of the initialisation."""
    model = dict(input_size=2 * symbols, output_size=symbols, hidden=hidden, task="sequence", timescale=timescale)
    return _synthetic(lambda n, g: synthetic.recall(n, steps, symbols, g), batch, model)


def adding(steps: int = 1000, batch: int = 32, hidden: int = 64) -> Task:
    """Add two marked numbers."""
    model = dict(input_size=2, output_size=1, hidden=hidden, task="sequence", objective="mse", input_kind="features")
    return _synthetic(lambda n, g: synthetic.adding(n, steps, g), batch, model)


def parity(steps: int = 256, batch: int = 32, hidden: int = 64) -> Task:
    """Running parity of random bits, asked at every step."""
    model = dict(input_size=2, output_size=2, hidden=hidden, task="step")
    return _synthetic(lambda n, g: synthetic.parity(n, steps, g), batch, model)


def _set(data: Any, batch: int, hidden: int, held_out: int | None = None) -> Task:
    def sample(g: Generator) -> Batch:
        i = torch.randint(len(data.train_x), (batch,), generator=g)
        return _full(data.train_x[i], data.train_y[i])

    model = dict(
        input_size=data.train_x.shape[-1],
        output_size=data.classes,
        hidden=hidden,
        task="sequence",
        input_kind="features",
    )
    return Task(model, sample, _full(data.test_x[:held_out], data.test_y[:held_out]))


def pixels(permuted: bool = False, batch: int = 32, hidden: int = 128) -> Task:
    """Pixel-by-pixel MNIST, 784 steps, 8,000 training images; held out: 2,000."""
    return _set(datasets.load("mnist10k", permuted=permuted), batch, hidden)


def chunks(steps: int = 28, permuted: bool = False, batch: int = 64, hidden: int = 256) -> Task:
    """The paper's Table 6: the 784 pixels in `steps` pieces of ceil(784 / steps), zeros before the first pixel."""
    data = datasets.load("mnist10k", permuted=permuted)
    width = -(-784 // steps)

    def cut(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x.squeeze(-1), (steps * width - 784, 0)).view(len(x), steps, width)

    return _set(replace(data, train_x=cut(data.train_x), test_x=cut(data.test_x)), batch, hidden)


def digits(speaker: str = "theo", steps: int = 512, batch: int = 32, hidden: int = 64) -> Task:
    """Spoken digits, raw wave, 8 samples a step; held out: one speaker. Zeros after a recording count as sound."""
    return _set(datasets.load("fsdd", steps=steps, samples_per_step=8, held_out=speaker), batch, hidden)


TASKS: dict[str, Callable[..., Task]] = dict(
    shakespeare=shakespeare, recall=recall, adding=adding, parity=parity, pixels=pixels, chunks=chunks, digits=digits
)


def build(task: Task, seed: int, cell: str = "gru") -> SequenceModel:
    """The task's model, initialised from `seed`."""
    return SequenceModel(**task.model, cell=cell, seed=seed)
