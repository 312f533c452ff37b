"""Codebook sweeps: how near are boundaries guessed from a small codebook, and how many sweeps are left?

    python -m benchmarks.codebook words      # codewords, probe and what is left, one shape
    python -m benchmarks.codebook shapes     # lengths and blocks, fresh batches
    python -m benchmarks.codebook drift      # codewords from earlier steps of a training run
    python -m benchmarks.codebook cost       # depth, rows and time beside an exact pass

Codebooks come from the exact boundaries of other sequences than those they are used on (`docs/notes`).
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import hbll_seq as hs
from benchmarks.codebook_maps import PROBE, RADIUS, Codebook
from benchmarks.dynamics_models import ALL, build, data
from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth, to_blocks
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.sequential import exact_starts
from hbll_seq.engine.solve import solve_states
from hbll_seq.models import SequenceModel

TOLERANCE = 3e-4
FINITE = ("parity", "s3", "s5")
MOST = ((8, 0.0), (16, 0.0), (32, 0.0), (64, 0.0), (128, 0.0), (256, 0.0), (256, 1.0))  # codewords, radius


class Case(NamedTuple):
    """One batch in blocks: `x` `(B, T, D)`, `blocks` `(K, n, B, D)`, `start` `(B, S)`, `true` `(n, B, S)`."""

    cell: Cell
    x: Tensor
    blocks: Tensor
    start: Tensor
    true: Tensor

    @property
    def probe(self) -> Tensor:
        """The first steps of the first sequence."""
        return self.x[0, :PROBE]


class Found(NamedTuple):
    """Of one guess: wrong codewords, relative gaps before each sweep, sweeps to the tolerance, error of the states."""

    words: int
    wrong: float
    gaps: list[float]
    sweeps: int
    error: float
    depth: Depth
    rows: int


@torch.no_grad()
def case(model: SequenceModel, batch: Batch, n: int) -> Case:
    """A batch cut into n blocks, with its true boundaries."""
    cell, x = model.cells[0], model.embed(batch.x)
    xb = to_blocks(x, x.shape[1] // n)
    start = torch.zeros(len(x), cell.state_size)
    true = exact_starts(cell, x.transpose(0, 1).contiguous(), xb, start, len(xb))
    return Case(cell, x, xb, start, true)


def states_of(model: SequenceModel, name: str, *, steps: int = 512, batch: int = 32, n: int = 16) -> Tensor:
    """Exact boundary states `(N, S)` of a batch of its own."""
    return case(model, data(name, batch, steps, 77), n).true[1:].flatten(0, 1)


def relative(error: Tensor, states: Tensor) -> float:
    return float(error.square().mean() / states.flatten(0, 1).var(0, correction=0).mean())


def swept(one: Case, start: Tensor, depth: Depth) -> tuple[list[float], int, Tensor]:
    """Relative gaps, sweeps until they are within the tolerance, and the boundaries then."""
    n = len(start)

    def make(h: Tensor, keep: bool) -> BlockRoll:
        return BlockRoll(one.cell, one.blocks, h, keep=keep, group=None, depth=depth)

    with torch.no_grad():
        found = solve_states(
            one.cell, make, start, None, Effort(0, n, TOLERANCE, fixed=True), depth=depth, carry_of=lambda own: own
        )
    return found.residuals, found.sweeps, found.start


def tried(one: Case, book: Codebook) -> Found:
    """What a codebook is worth on a case."""
    depth = Depth()
    guess = book.guess(one.blocks, one.start, depth)
    wrong = float((book.nearest(one.true[1:]) != guess.names[1:]).float().mean())
    gaps, sweeps, end = swept(one, guess.start, depth)
    return Found(len(book), wrong, gaps, sweeps, relative(end - one.true, one.true), depth, guess.rows)


def line(*columns: object) -> None:
    print("| " + " | ".join(f"{c:.1e}" if isinstance(c, float) else str(c) for c in columns) + " |", flush=True)


def head(*columns: str) -> None:
    line(*columns)
    line(*["---"] * len(columns))


def words(names: Sequence[str]) -> None:
    """How many codewords for which gap, with and without a probe."""
    head("model", "probe", "codewords", "radius", "named wrongly", "gap from zero", "from the guess", "after 1", "after 2", "sweeps",
         "sweeps from zero", "error")  # fmt: skip
    for name in names:
        model = build(name)
        one, states = case(model, data(name, 4, 2048), 64), states_of(model, name)
        zero, sweeps0, _ = swept(one, _from_zero(one), Depth())
        for probe in (0, 8, 32):
            for most, radius in MOST:
                book = Codebook.covering(one.cell, states, one.x[0, :probe], most, radius)
                f = tried(one, book)
                gaps = [*f.gaps, f.gaps[-1], f.gaps[-1]]
                line(name, probe, f.words, radius, f.wrong, zero[0], *gaps[:3], f.sweeps, sweeps0, f.error)


def _from_zero(one: Case) -> Tensor:
    start = torch.zeros_like(one.true)
    start[0] = one.start
    return start


def shapes(names: Sequence[str], most: int, radius: float) -> None:
    """Lengths and blocks, three fresh batches each: sweeps to the tolerance, and how often more than two."""
    head(
        "model",
        "T",
        "n",
        "codewords",
        "gap from the guess (largest)",
        "sweeps",
        "more than 2",
        "error (largest)",
        "from zero",
    )
    for name in names:
        model = build(name)
        states = states_of(model, name, steps=1024, batch=32, n=32)
        for t in (512, 1024, 2048, 4096):
            for n in (16, 64):
                found, zero = [], []
                for seed in range(3):
                    one = case(model, data(name, 2, t, seed), n)
                    found.append(tried(one, Codebook.covering(one.cell, states, one.probe, most, radius)))
                    zero.append(swept(one, _from_zero(one), Depth())[1])
                sweeps = [f.sweeps for f in found]
                line(name, t, n, found[0].words, max(f.gaps[0] for f in found), sweeps,
                     sum(s > 2 for s in sweeps), max(f.error for f in found), zero)  # fmt: skip


def train(name: str, steps: int, at: Callable[[int, SequenceModel], None]) -> None:
    """The recipe's training, step by step; `at` sees the model before every step."""
    one = ALL[name]
    model = one.make()
    options = dict(one.train or {})
    x, y = one.draw(options["n"], 64, torch.Generator().manual_seed(0))
    rule = hs.rules.make("hbll", execution="sequential", discount=1.0)
    g = torch.Generator().manual_seed(0)
    rule.setup(model, g)
    size = options["batch_size"]
    optimizer = torch.optim.Adam(model.parameters(), lr=options["lr"])
    for step in range(steps + 1):
        at(step, model)
        for group in optimizer.param_groups:
            group["lr"] = options["lr"] * (1 - step / (steps + 1))
        rows = torch.randint(len(x), (size,), generator=g)
        batch = Batch(x[rows], torch.full((size,), 64), y[rows], torch.ones(size, 64, dtype=torch.bool))
        hs.step(model, batch, rule, optimizer)


def drift(name: str, steps: int, most: int, radius: float, ages: Sequence[int] = (0, 1, 10, 50)) -> None:
    """Codewords from earlier steps of a run, used with the weights of now."""
    head("model", "step", "loss", "from zero", *(f"{age} steps old: codewords, gap, sweeps" for age in ages))
    every = max(steps // 8, 1)
    asked = [every * i for i in range(1, 9)]
    kept: dict[int, Tensor] = {}

    def at(step: int, model: SequenceModel) -> None:
        if any(step == then - age for then in asked for age in ages):
            kept[step] = states_of(copy.deepcopy(model), name)
        if step not in asked:
            return
        batch = data(name, 4, 512, 3)
        one = case(model, batch, 16)
        columns: list[object] = []
        for age in ages:
            f = tried(one, Codebook.covering(one.cell, kept[step - age], one.probe, most, radius))
            columns.append(f"{f.words}, {f.gaps[0]:.1e}, {f.sweeps}")
        loss = float(hs.evaluate(model, batch.x, batch.y)["loss"])
        line(name, step, f"{loss:.3f}", swept(one, _from_zero(one), Depth())[1], *columns)

    train(name, steps, at)


def cost(names: Sequence[str], most: int, radius: float) -> None:
    """Depth, rows and milliseconds of boundaries by a guess and its sweeps, and by one roll in order."""
    head("model", "T", "n", "codewords", "depth", "depth in order", "rows", "ms", "ms in order")
    for name in names:
        model = build(name)
        states = states_of(model, name)
        for t, n in ((2048, 64), (4096, 64)):
            one = case(model, data(name, 1, t), n)
            book = Codebook.covering(one.cell, states, one.probe, most, radius)
            f, (own, order) = tried(one, book), times(one, book)
            line(name, t, n, f.words, f.depth.total, t, f.rows, f"{own:.1f}", f"{order:.1f}")


def times(one: Case, book: Codebook) -> tuple[float, float]:
    """Milliseconds of boundaries by a guess and its sweeps, and by one roll in order."""
    in_time = one.x.transpose(0, 1).contiguous()
    own = _milliseconds(lambda: swept(one, book.guess(one.blocks, one.start, Depth()).start, Depth()))
    order = _milliseconds(lambda: exact_starts(one.cell, in_time, one.blocks, one.start, len(one.blocks)))
    return own, order


def _milliseconds(call: Callable[[], object]) -> float:
    taken = []
    for i in range(7):
        begun = time.perf_counter()
        with torch.no_grad():
            call()
        if i >= 2:
            taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken)


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("table", choices=("words", "shapes", "drift", "cost"))
    p.add_argument("--models", nargs="+", default=list(FINITE))
    p.add_argument("--most", type=int, default=160)
    p.add_argument("--radius", type=float, default=RADIUS)
    p.add_argument("--steps", type=int, default=1600)
    a = p.parse_args()
    if a.table == "words":
        words(a.models)
    elif a.table == "shapes":
        shapes(a.models, a.most, a.radius)
    elif a.table == "drift":
        for name in a.models:
            drift(name, a.steps, a.most, a.radius)
    else:
        cost(a.models, a.most, a.radius)


if __name__ == "__main__":
    main()
