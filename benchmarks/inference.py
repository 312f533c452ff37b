"""The deployed chain without gradient, beside PyTorch's own layers: `python -m benchmarks.inference [--threads 2]`.

Three tables. *Layers*: `Cell.deployed` beside `nn.GRU`, `nn.LSTM` (oneDNN) and `nn.RNN` in evaluation mode, float32, with
D = d; the last column says which side `cells.inference` chose. *Text*: characters a second of `CharLM.generate`, beside
the general path (`advance` and `Sampler.pick`, which a subclass with an `advance` of its own takes). *Steps*: a time step
of `model.step` in a loop, beside an embedding, PyTorch's layer and a read-out without any check.

Sides alternate within one process; figures are medians of `--repeats`, after one round to warm up. Small shapes are
repeated up to 5 times as often. `--cpu` takes the CPU time of one thread, for a machine that others use too. Ratios
above 1 mean that this package is faster. Shapes whose slowest side would take longer than `--patience` seconds are left
out and said so.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.cells import adopt, inference
from hbll_seq.models import CharLM

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
SYMBOLS = 65
SHORT = 0.02  # seconds of a round below which more rounds are made


def alternating(sides: list[Callable[[], Any]], a: argparse.Namespace) -> list[float]:
    """Median seconds of each side."""
    repeats, clock = a.repeats, time.thread_time if a.cpu else time.perf_counter
    taken: list[list[float]] = [[] for _ in sides]
    rounds = repeats
    for i in range(-1, 5 * repeats):
        if i >= rounds:
            break
        for one, times in zip(sides, taken, strict=True):
            start = clock()
            one()
            if i >= 0:
                times.append(clock() - start)
        if i == 0 and sum(times[0] for times in taken) < SHORT:
            rounds = 5 * repeats
    return [statistics.median(times) for times in taken]


def layers(a: argparse.Namespace) -> list[float]:
    """The table of layers; returns its ratios."""
    print("| cell | B | T | d | PyTorch ms | here ms | ratio | by |\n" + "|---" * 8 + "|")
    ratios = []
    for name in a.cells:
        for d in a.hidden:
            torch.manual_seed(0)
            module = KINDS[name](d, d, batch_first=True).eval()
            (cell,) = adopt(module, d)
            for b in a.batch:
                rate = 0.0
                for t in a.steps:
                    where = f"| {name} | {b} | {t} | {d} |"
                    if rate * t > a.patience:
                        print(f"{where} left out: about {rate * t:.1f} s |||", flush=True)
                        continue
                    x, state = torch.randn(b, t, d), torch.zeros(b, cell.state_size)
                    theirs, ours = alternating([lambda: module(x), lambda: cell.deployed(x, state)], a)  # noqa: B023  called before the loop goes on
                    rate = max(theirs, ours) / t
                    ratios.append(theirs / ours)
                    by = "roll" if inference.roll_pays(cell, b, t, a.threads) else "PyTorch"
                    print(f"{where} {1e3 * theirs:.3f} | {1e3 * ours:.3f} | {ratios[-1]:.2f}x | {by} |", flush=True)
    if ratios:
        print(f"{len(ratios)} shapes, ratios from {min(ratios):.2f}x to {max(ratios):.2f}x, below 1.00x: "
              f"{sum(r < 1 for r in ratios)}")  # fmt: skip
    return ratios


class General(CharLM):
    """A model that the compiled loop does not take, because its `advance` might do something else."""

    def advance(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        return super().advance(x, state)


def text(a: argparse.Namespace) -> None:
    """The table of generated text."""
    print("| cell | d | layers | characters a second | general path | ratio |\n" + "|---" * 6 + "|")
    prompt = torch.arange(32) % SYMBOLS
    for cell in ("gru", "lstm", "elman", "mingru"):
        for d in (64, 256):
            for depth in (1, 2):
                fast, slow = (kind(SYMBOLS, hidden=d, cell=cell, layers=depth).eval() for kind in (CharLM, General))
                short, long = a.characters // 8, a.characters
                one = [lambda: fast.generate(prompt, long), lambda: slow.generate(prompt, short)]  # noqa: B023  called before the loop goes on
                seconds = alternating(one, a)
                rates = [long / seconds[0], short / seconds[1]]
                row = f"{rates[0]:,.0f} | {rates[1]:,.0f} | {rates[0] / rates[1]:.1f}x"
                print(f"| {cell} | {d} | {depth} | {row} |", flush=True)


def steps(a: argparse.Namespace) -> None:
    """The table of single time steps, in microseconds."""
    print("| cell | d | layers | PyTorch, no checks | `advance` | `step` |\n" + "|---" * 6 + "|")
    x = torch.tensor([3])
    for cell, kind in (("gru", nn.GRU), ("lstm", nn.LSTM), ("elman", nn.RNN)):
        for d in (64, 256):
            for depth in (1, 2):
                model = CharLM(SYMBOLS, hidden=d, cell=cell, layers=depth).eval()
                module = kind(d, d, depth, batch_first=True).eval()
                _, state = model.step(x)
                _, own = module(model.embed(x[:, None]))

                def bare() -> Tensor:
                    return model.readout(module(model.embed(x[:, None]), own)[0][:, 0])  # noqa: B023  called before the loop goes on

                sides = [bare, lambda: model.advance(x, state), lambda: model.step(x, state)]  # noqa: B023  called before the loop goes on
                many = [lambda one=one: [one() for _ in range(50)] for one in sides]
                row = " | ".join(f"{s / 50 * 1e6:.0f}" for s in alternating(many, a))
                print(f"| {cell} | {d} | {depth} | {row} |", flush=True)


@torch.no_grad()
def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=["layers", "text", "steps"], default=["layers", "text", "steps"])
    p.add_argument("--cells", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    p.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8, 32, 128])
    p.add_argument("--steps", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    p.add_argument("--hidden", type=int, nargs="+", default=[16, 64, 128, 256, 512])
    p.add_argument("--characters", type=int, default=4000)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--cpu", action="store_true", help="CPU time of the one thread, where other programs are running")
    p.add_argument("--patience", type=float, default=0.06)
    a = p.parse_args()
    if a.cpu and a.threads > 1:
        p.error("--cpu counts one thread")
    torch.set_num_threads(a.threads)
    print(
        f"{'CPU time, ' if a.cpu else ''}{a.threads} threads, torch {torch.__version__}, medians of at least {a.repeats}, alternating"
    )
    for name, table in (("layers", layers), ("text", text), ("steps", steps)):
        if name in a.only:
            print(f"\n## {name}\n")
            table(a)


if __name__ == "__main__":
    main()
