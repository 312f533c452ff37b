"""Credit under the controls of the literature on attribution, beside captum's methods.

    python -m benchmarks.credit_controls [--tasks text digits S3] [--seeds 100 101 102]

`captum` has to be importable; it is no dependency of this project (`pip install captum --no-deps` will do). Digits and
tiny Shakespeare are read from the folder that `HBLL_SEQ_DATA` names.

A small GRU is trained by hbll; the outcome is its loss at the last time step of 64 fresh sequences, in 16 blocks.

* Deletion (Petsiuk et al. 2018): blocks are replaced one by one, the one with the most credit first. `deletion` is the
  rise of the loss, mean over 1 to 15 replaced blocks; `early`, over the first four. Higher is better. Replaced by the
  mean input, which occlusion is told of, and by the same block of another sequence (`... swap`), which no method is.
* Insertion: from all blocks replaced, the block with the most credit comes back first. `insertion` is the loss, mean
  over 1 to 15 blocks that are back. Lower is better.
* Random weights (Adebayo et al. 2018): Spearman's correlation with the map of the same network with new weights, within
  each sequence; `random weights, place` is the correlation over sequences at each block, mean over blocks: a recurrent
  network that forgets gives late blocks more, whatever it learned, and that is no agreement. `other seed` is the same
  with a network that was trained from another seed: how alike two maps of the task are.

A method gives every block a number: how much it helps the outcome. Gradient times input and integrated gradients sum
(input - mean) times gradient of minus the loss over the block. `hbll (credit)` has its defaults: half of it compares
with the mean, half with other sequences, seven donors that "swap" above does not use.
Each run appends a record for every method to `benchmarks/results/credit-controls.jsonl`.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import hbll_seq as hs
from benchmarks.credit import rank_correlation
from benchmarks.results import append, done
from hbll_seq import losses

NAME, BLOCKS, TEST = "credit-controls", 16, 64
DONOR = 32  # rows to the sequence that is swapped in; credit's own donors are the seven rows before


class Task(NamedTuple):
    """A trained network and what it is asked.

    Attributes:
        model: float64.
        x: `(B, T)` or `(B, T, D)`, as `hs.credit` takes it, with `y`.
        seen: the part of x that the outcome's step has read.
        target: `(B,)` of the outcome.
    """

    model: hs.models.SequenceModel
    x: Tensor
    y: Tensor | None
    seen: Tensor
    target: Tensor


def text(seed: int, weights: int, updates: int = 400) -> Task:
    """Tiny Shakespeare: the next character after 64."""
    data = hs.datasets.load("tinyshakespeare")
    model = hs.models.LanguageModel(data.tokenizer, hidden=96, seed=weights)
    fit(model, data.train, None, weights, updates, window=128)
    g = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(data.valid) - 65, (TEST,), generator=g)
    x = torch.stack([data.valid[i : i + 65] for i in starts.tolist()])
    return Task(model, x, None, x[:, :-1], x[:, -1])


def digits(seed: int, weights: int, updates: int = 500) -> Task:
    """Spoken digits of a speaker that was not heard before, 32 steps of log-mel; the digit."""
    data, front = (
        hs.datasets.load("fsdd", steps=528, held_out="jackson", normalise="rms"),
        hs.audio.LogMel(8000, mels=20),
    )

    def features(waves: Tensor) -> Tensor:
        x, _ = front(list(waves.flatten(1)))
        return x[:, :32]

    model = hs.models.SequenceModel(
        20, 10, hidden=64, input_kind="features", task="sequence", timescale=100.0, seed=weights
    )
    fit(model, features(data.train_x), data.train_y, weights, updates)
    rows = torch.randperm(len(data.test_x), generator=torch.Generator().manual_seed(seed))[:TEST]
    x, y = features(data.test_x[rows]), data.test_y[rows]
    return Task(model, x, y, x, y)


def symmetric(seed: int, weights: int, updates: int = 600) -> Task:
    """The word problem of S3, identity and two generators as inputs, 64 symbols; the product at the end."""
    data = hs.datasets.load("words", group="S3", inputs="generators", steps=64, n=32 * 600, seed=10 * weights + 1)
    model = hs.models.SequenceModel(data.input_size, data.classes, hidden=64, timescale=None, seed=weights)
    fit(model, data.x, data.y, weights, updates)
    test = hs.datasets.load("words", group="S3", inputs="generators", steps=64, n=TEST, seed=10 * seed + 9)
    return Task(model, test.x, test.y, test.x, test.y[:, -1])


TASKS: dict[str, Callable[..., Task]] = {"text": text, "digits": digits, "S3": symmetric}


def fit(model: Any, x: Any, y: Any, seed: int, updates: int, window: int | None = None) -> None:
    if updates:
        hs.fit(model, x, y, steps=updates, batch_size=32, lr=8e-3, seed=seed, window=window, progress=False)


class Asked:
    """A network on its embedded inputs: minus the loss of each outcome, for captum and for the curves."""

    def __init__(self, task: Task, model: hs.models.SequenceModel) -> None:
        self.model, self.target = model.double().eval(), task.target
        with torch.no_grad():
            seen = task.seen if task.seen.dtype == torch.int64 else task.seen.double()
            self.u = self.model.embed(seen)  # (B, T, d)
            self.mean = self.u.mean((0, 1), keepdim=True)
        self.block = self.u.shape[1] // BLOCKS

    def __call__(self, u: Tensor) -> Tensor:
        for layer, cell in enumerate(self.model.cells):
            u = self.model.between(layer, u, cell.sequence(u, cell.initial(len(u), u))[0])
        target = self.target.repeat(len(u) // len(self.target))  # captum stacks copies of the batch
        return -losses.each(self.model.objective, self.model.readout(u[:, -1]), target)

    def in_blocks(self, attribution: Tensor) -> Tensor:
        """Sums over the block and the features, `(B, n)`."""
        return attribution.detach().sum(-1).unflatten(1, (BLOCKS, self.block)).sum(-1)

    @torch.no_grad()
    def losses(self, keep: Tensor, stand_in: Tensor) -> float:
        """Mean loss with the blocks that are not kept, `(B, n)` bool, replaced."""
        kept = keep.repeat_interleave(self.block, 1).unsqueeze(-1)
        return -float(self(torch.where(kept, self.u, stand_in)).mean())


def maps(asked: Asked, task: Task, seed: int) -> dict[str, tuple[Tensor, float]]:
    """Every method's numbers of the blocks `(B, n)`, and its CPU seconds."""
    from captum.attr import InputXGradient, IntegratedGradients, Occlusion

    u, zero = asked.u, torch.zeros_like(asked.u[:1])
    window = (asked.block, u.shape[-1])

    def shifted(v: Tensor) -> Tensor:
        return asked(v + asked.mean)

    def times_input() -> Tensor:  # of the input measured from the mean, which is integrated gradients' baseline too
        return asked.in_blocks(InputXGradient(shifted).attribute((u - asked.mean).requires_grad_()))

    def integrated() -> Tensor:
        found = IntegratedGradients(shifted).attribute(
            u - asked.mean, baselines=zero, n_steps=50, internal_batch_size=1024
        )
        return asked.in_blocks(found)

    def occlusion() -> Tensor:
        found = Occlusion(shifted).attribute(
            u - asked.mean, sliding_window_shapes=window, strides=window, baselines=0.0
        )
        return asked.in_blocks(found) / (asked.block * u.shape[-1])  # each element has the whole window's change

    def ours(kind: Any, **options: Any) -> Tensor:
        return hs.credit(asked.model, task.x, task.y, kind=kind, block_size=asked.block, **options).block

    def at_random() -> Tensor:
        return torch.rand(len(u), BLOCKS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    methods: dict[str, Callable[[], Tensor]] = {
        "hbll (credit)": lambda: ours("knockout"),
        "hbll (posterior)": lambda: ours("posterior"),
        "occlusion": occlusion,
        "integrated gradients": integrated,
        "gradient x input": times_input,
        "gradient": lambda: ours("gradient"),
        "random": at_random,
    }
    found = {}
    for name, method in methods.items():
        start = time.process_time()
        found[name] = (method().double().nan_to_num(), round(time.process_time() - start, 3))
    return found


def curves(asked: Asked, numbers: Tensor) -> dict[str, float]:
    """Deletion and insertion with both stand-ins."""
    figures, none = {}, torch.ones_like(numbers, dtype=torch.bool)
    place = numbers.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # 0: the block with the most credit
    for how, stand_in in (("", asked.mean.expand_as(asked.u)), (" swap", asked.u.roll(DONOR, 0))):
        whole = asked.losses(none, stand_in)
        removed = [asked.losses(place >= k, stand_in) - whole for k in range(1, BLOCKS)]
        back = [asked.losses(place < k, stand_in) for k in range(1, BLOCKS)]
        figures |= {
            f"deletion{how}": sum(removed) / len(removed), f"early{how}": sum(removed[:4]) / 4,
            f"insertion{how}": sum(back) / len(back),
        }  # fmt: skip
    return figures


def agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Spearman's correlation within sequences, and over sequences at each block; without those that are constant."""
    rows = torch.tensor(rank_correlation(one, other)).nanmean()
    return float(rows.nan_to_num()), float(torch.tensor(rank_correlation(one.T, other.T)).nanmean().nan_to_num())


def run(name: str, seed: int) -> None:
    """All methods on one network, unless they are on record."""
    if done(NAME, task=name, rule="random", seed=seed):
        return
    task, others = TASKS[name](seed, seed), {
        "random weights": TASKS[name](seed, seed + 1000, updates=0).model,
        "other seed": TASKS[name](seed, seed + 2000).model,
    }  # fmt: skip
    asked = Asked(task, task.model)
    found = maps(asked, task, seed)
    compared = {title: maps(Asked(task, model), task, seed + 1) for title, model in others.items()}
    none = torch.ones(len(asked.u), BLOCKS, dtype=torch.bool)
    base = {"loss": asked.losses(none, asked.u), "all replaced": asked.losses(~none, asked.mean.expand_as(asked.u))}
    for method, (numbers, seconds) in found.items():
        figures = {"seconds": seconds, **base, **curves(asked, numbers)}
        for title, theirs in compared.items():
            figures[title], figures[f"{title}, place"] = agreement(numbers, theirs[method][0])
        append(
            dict(
                benchmark=NAME, task=name, rule=method, seed=seed, figures=figures,
                options=dict(blocks=BLOCKS, test=TEST),
            )
        )  # fmt: skip
        print(name, seed, method, {key: round(value, 3) for key, value in figures.items()}, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tasks", nargs="*", default=list(TASKS), choices=tuple(TASKS))
    p.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102])
    a = p.parse_args()
    if importlib.util.find_spec("captum") is None:
        raise SystemExit("captum is not installed: pip install captum --no-deps")
    for name in a.tasks:
        for seed in a.seeds:
            run(name, seed)


if __name__ == "__main__":
    main()
