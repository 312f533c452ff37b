"""Layers of `hbll_seq.nn` beside PyTorch's: the time of a whole training step, loss and backward pass included.

    python -m benchmarks.layers                  # 117 shapes
    python -m benchmarks.layers --packed         # unequal lengths, bidirectional, against PackedSequence in PyTorch
    python -m benchmarks.layers --quick          # a few shapes
    python -m benchmarks.layers --cpu            # on a busy machine: CPU time, one thread

Both sides are the same module with the same weights: a convolution (stride 1) in front, recurrent layers, a linear
read-out, cross-entropy at every time step or CTC. Steps of both sides alternate; the figure is the ratio of medians.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import hbll_seq as hs

FEATURES, CLASSES = 20, 12


class Net(nn.Module):
    """A convolution, recurrent layers, a linear read-out, and a loss."""

    def __init__(self, cell: str, hidden: int, layers: int, bidirectional: bool, loss: str) -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[cell]
        self.front = nn.Conv1d(FEATURES, hidden, 3, padding=1)
        self.rnn = kind(hidden, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (1 + bidirectional), CLASSES)
        self.ctc = loss == "ctc"

    def forward(self, x: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the loss of inputs `(B, T, FEATURES)` and targets."""
        h = torch.relu(self.front(x.transpose(1, 2))).transpose(1, 2)
        if lengths is None:
            scores = self.head(self.rnn(h)[0])
        else:
            packed, _ = self.rnn(pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False))
            return nn.functional.cross_entropy(self.head(packed.data), y[: len(packed.data)])
        if self.ctc:
            sizes = torch.full((len(x),), x.shape[1]), torch.full((len(x),), y.shape[1])
            return nn.functional.ctc_loss(scores.log_softmax(-1).transpose(0, 1), y, *sizes)
        return nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())


def step(net: Net, *batch: Tensor | None) -> Callable[[], None]:
    """Return a function that makes one training step, without the optimiser's part."""

    def one() -> None:
        net.zero_grad()
        net(*batch).backward()

    return one


clock = time.perf_counter


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, seconds: float
) -> tuple[float, float]:
    """Return the median milliseconds of both, alternating; fewer repeats, at least 5, if they take long."""
    times: tuple[list[float], list[float]] = [], []
    begun = time.perf_counter()
    for i in range(repeats + 2):
        for side, taken in zip((ours, theirs), times, strict=True):
            start = clock()
            side()
            if i >= 2:
                taken.append(1e3 * (clock() - start))
        if i >= 6 and time.perf_counter() - begun > seconds:
            break
    return statistics.median(times[0]), statistics.median(times[1])


def shapes(quick: bool) -> Iterator[tuple[str, int, int, int, int, bool, str]]:
    """Yield cell, B, T, d, layers, bidirectional, loss."""
    yield "gru", 1, 4096, 64, 1, False, "cross_entropy"
    yield "gru", 8, 4096, 64, 1, False, "cross_entropy"
    yield "gru", 32, 1024, 128, 1, False, "cross_entropy"
    if quick:
        yield "lstm", 8, 256, 64, 2, True, "ctc"
        return
    for cell, b, t, d in itertools.product(("gru", "lstm"), (1, 8, 32), (256, 1024, 8192), (64, 128, 256)):
        if b * t * d <= 32 * 1024 * 128 or (b == 1 and d == 64):
            yield cell, b, t, d, 1, False, "cross_entropy"
    for cell, layers, both, loss in itertools.product(
        ("gru", "lstm"), (1, 2, 3), (False, True), ("cross_entropy", "ctc")
    ):
        for b, t, d in ((1, 1024, 64), (8, 1024, 64), (32, 256, 128)):
            yield cell, b, t, d, layers, both, loss


def nets(cell: str, d: int, layers: int, both: bool, loss: str) -> tuple[Net, Net]:
    """Return the module with our layers and with PyTorch's, same weights."""
    torch.manual_seed(0)
    theirs = Net(cell, d, layers, both, loss)
    ours = Net(cell, d, layers, both, loss)
    ours.load_state_dict(theirs.state_dict())
    return hs.convert(ours, verbose=False), theirs


def table(quick: bool, repeats: int, seconds: float) -> None:
    """Print a line for every shape."""
    print(f"{torch.get_num_threads()} threads, {'CPU' if clock is time.process_time else 'wall'} time")
    for cell, b, t, d, layers, both, loss in shapes(quick):
        ours, theirs = nets(cell, d, layers, both, loss)
        x = torch.randn(b, t, FEATURES)
        y = torch.randint(1, CLASSES, (b, t if loss == "cross_entropy" else min(30, t // 8)))
        mine, other = ratio(step(ours, x, y), step(theirs, x, y), repeats, seconds)
        ran = ours.rnn.engine.records[0].ran  # type: ignore[union-attr]  # converted
        name = f"{cell} {layers} x {d}{' both ways' if both else ''}, {loss}"
        print(
            f"{name:38} B={b:<3} T={t:<5} {mine:9.2f} ms, PyTorch {other:9.2f}: {other / mine:6.2f}x  {ran}", flush=True
        )


def packed(repeats: int, seconds: float) -> None:
    """Print the same for unequal lengths, both directions, packed."""
    for cell, b, t, d in itertools.product(("gru", "lstm"), (8, 32), (100, 500, 1550), (64, 128)):
        ours, theirs = nets(cell, d, 1, True, "cross_entropy")
        lengths = torch.linspace(t // 2, t, b).long()
        x, y = torch.randn(b, t, FEATURES), torch.randint(CLASSES, (b * t,))
        mine, other = ratio(step(ours, x, y, lengths), step(theirs, x, y, lengths), repeats, seconds)
        print(
            f"{cell} {d} packed B={b:<3} T={t:<5} {mine:9.2f} ms, PyTorch {other:9.2f}: {other / mine:6.2f}x",
            flush=True,
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=6.0, help="about the longest time a shape may take")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if args.cpu:
        global clock
        clock = time.process_time
        torch.set_num_threads(1)
    if args.packed:
        packed(args.repeats, args.seconds)
    else:
        table(args.quick, args.repeats, args.seconds)


if __name__ == "__main__":
    main()
