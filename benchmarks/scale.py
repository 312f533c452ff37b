"""Time shards: what is sent, how fast two processes are, memory of a rank, and a model of the cost.

    python -m benchmarks.scale --counts    numbers and collectives of a step over T, two ranks
    python -m benchmarks.scale --times     two processes of one thread, one process of one thread and of two
    python -m benchmarks.scale --memory    peak of a process, and what T adds to it; one rank of two and one process
    python -m benchmarks.scale --model     parts measured, two-process times predicted, projection, docs/img/scale.png

A step is a GRU with a read-out, cross-entropy at every time step, forward and backward, and the average of the
gradients. Sides alternate within every round; the table has the least time of each. `--cpu` counts a process's CPU
seconds in place of the clock's, for a machine on which other work runs: it leaves out waiting.

`--kept` makes glibc keep the memory that a process frees. Without it every tensor above 32 MB is new memory of the
kernel in every step, which takes time in proportion to its pages; the model of the cost has no such part, so `--model`
implies it.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import hbll_seq as hs
from hbll_seq import distributed as hd

SHAPES = ((1, 65536, 128), (1, 262144, 64), (8, 16384, 128))
LENGTHS = (4096, 16384, 65536, 262144, 1048576)
CLASSES = 32
ROUNDS = 5
LIMIT = 900  # seconds for the work of a process
WARM = 1024  # time steps of the step that loads and compiles everything
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 46)}  # read by glibc when a process starts
PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "img" / "scale.png"


class Side:
    """A network and its data; `take` cuts this rank's span from the data."""

    def __init__(self, batch: int, steps: int, units: int, shards: hd.TimeShards | None, group: Any = None) -> None:
        torch.manual_seed(0)
        self.rnn, self.head = hs.nn.GRU(units, units, batch_first=True), nn.Linear(units, CLASSES)
        first, stop = (0, steps) if shards is None else (shards.first, shards.stop)
        assert first is not None and stop is not None
        self.x = torch.randn(batch, stop - first, units, generator=torch.Generator().manual_seed(first))
        self.y = torch.randint(0, CLASSES, (batch, stop - first), generator=torch.Generator().manual_seed(first))
        self.shards, self.group = shards, group
        self.parameters = [*self.rnn.parameters(), *self.head.parameters()]

    def step(self) -> None:
        for p in self.parameters:
            p.grad = None
        out, _ = self.rnn(self.x)
        each = nn.functional.cross_entropy(self.head(out).flatten(0, 1), self.y.flatten(), reduction="none")
        (each.mean() if self.shards is None else self.shards.mean(each)).backward()
        if self.shards is not None:
            hd.average_gradients(self.parameters, self.group)


def processes(count: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Run `work(rank, *args)` in so many processes of a gloo group; return the results by rank."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        all_ = [
            context.Process(target=_enter, args=(rank, count, f"{folder}/meet", queue, work, args))
            for rank in range(count)
        ]
        for one in all_:
            one.start()
        try:
            found = dict(queue.get(timeout=LIMIT) for _ in all_)
            for one in all_:
                one.join(60)
        finally:
            for one in all_:
                one.kill()
    return [found[rank] for rank in range(count)]


def _enter(rank: int, count: int, file: str, queue: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)
    queue.put((rank, work(rank, *args)))
    dist.barrier()
    dist.destroy_process_group()


def count(rank: int, units: int) -> list[tuple[int, int, int, int]]:
    """Return (T, collectives, numbers without the weights' gradients, numbers of these) of a step, for every length."""
    found = []
    for steps in LENGTHS:
        with hd.time_sharded(steps=steps) as shards:
            side = Side(1, steps, units, shards)
            side.step()
            before = shards.group.traffic.copy()
            side.step()
            sent = shards.group.traffic.since(before)
        found.append((steps, sent.collectives, sent.numbers, sum(p.numel() for p in side.parameters)))
    return found


def timed(rank: int, shape: tuple[int, int, int], cpu: bool) -> dict[str, float]:
    """Return the least seconds of a step of each side."""
    clock = time.process_time if cpu else time.perf_counter
    with hd.time_sharded(steps=shape[1]) as shards:
        two = Side(*shape, shards)
    one = Side(*shape, None) if rank == 0 else None
    taken: dict[str, list[float]] = {}
    for i in range(ROUNDS + 1):
        for name, threads in (("two processes", 1), ("one process, one thread", 1), ("one process, two threads", 2)):
            dist.barrier()
            torch.set_num_threads(threads)
            began = clock()
            if name == "two processes":
                with hd.shards.spread(shards):
                    two.step()
            elif one is not None:
                one.step()
            spent = clock() - began
            torch.set_num_threads(1)
            if i:  # the first round compiles
                taken.setdefault(name, []).append(spent)
    return {name: min(all_) for name, all_ in taken.items()} | {"waiting": shards.group.traffic.seconds / (ROUNDS + 1)}


def peak(rank: int, shape: tuple[int, int, int], spread: bool) -> tuple[float, float, float]:
    """Return in megabytes a process's peak; what is there before a step (the interpreter, torch, this package, compiled
    code, libraries, work buffers: the peak of a process that has made a short step); and the data alone.
    """
    batch, steps, units = shape
    with hd.time_sharded(steps=WARM) as shards:
        Side(batch, WARM, units, shards if spread else None).step()
    floor = resident()
    with hd.time_sharded(steps=steps) as shards:
        side = Side(*shape, shards if spread else None)
        side.step()
    data = (side.x.numel() * side.x.element_size() + side.y.numel() * side.y.element_size()) / 2**20
    return resident(), floor, data


def resident() -> float:
    """Return the peak of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def beside(rank: int, shape: tuple[int, int, int]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return the least seconds of a step of T / 8 and of T / 4 time steps in one process, when the other rank waits
    and when it does the same; by the clock and in CPU seconds. Nothing is exchanged.
    """
    batch, steps, units = shape
    sides = [Side(batch, steps // part, units, None) for part in (8, 4)]
    taken: dict[bool, list[list[tuple[float, float]]]] = {False: [[], []], True: [[], []]}
    for i in range(ROUNDS + 1):
        for both in (False, True):
            for j, side in enumerate(sides):
                dist.barrier()
                began, spent = time.perf_counter(), time.process_time()
                if both or rank == 0:
                    side.step()
                if i:
                    taken[both][j].append((time.perf_counter() - began, time.process_time() - spent))
                dist.barrier()
    alone, busy = ([tuple(map(min, zip(*one, strict=True))) for one in taken[both]] for both in (False, True))
    return alone, busy


def collective(rank: int) -> dict[int, float]:
    """Return the median seconds of a gather of so many numbers."""
    group, found = hd.Group(), {}
    for size in (1, 1000, 100_000, 1_000_000):
        mine, taken = torch.zeros(size), []
        for _ in range(50):
            began = time.perf_counter()
            group.gather(mine)
            taken.append(time.perf_counter() - began)
        found[size] = statistics.median(taken)
    return found


def fold_seconds(links: int, batch: int, units: int) -> float:
    """Return the seconds of one fold over so many spans."""
    ends = torch.randn(links, batch, units)
    best = 1e9
    for _ in range(5):
        began, state = time.perf_counter(), ends[0]
        for r in range(links - 1):
            state = ends[r] + ends[r] * (state - ends[r])
        best = min(best, time.perf_counter() - began)
    return best


class Cost:
    """Seconds of a step of the span of a rank, and of everything else.

    A span costs `fixed + each * T / P`; `again` time steps of it are rolled twice at its ends. Each of a step's four
    gathers costs a latency for every other rank and the bytes of all ranks over the bandwidth (a ring, as gloo's), and
    a fold over all spans. The gradients' sum sends twice their bytes.
    """

    def __init__(
        self, shape: tuple[int, int, int], fixed: float, each: float, latency: float, bandwidth: float
    ) -> None:
        self.batch, _, self.units = shape
        self.fixed, self.each, self.latency, self.bandwidth = fixed, each, latency, bandwidth
        self.weights = 6 * self.units**2 + 6 * self.units + CLASSES * (self.units + 1)
        self.link = fold_seconds(256, self.batch, self.units) / 256
        self.again = 2 * 320  # 64 and 256 time steps at either end

    def step(self, steps: float, ranks: int, latency: float | None = None, bandwidth: float | None = None) -> float:
        latency = self.latency if latency is None else latency
        bandwidth = self.bandwidth if bandwidth is None else bandwidth
        numbers = self.batch * self.units * 7  # of the four gathers of a rank
        sent = 5 * latency * (ranks - 1) + 4 * numbers * ranks / bandwidth
        weights = 2 * latency * (ranks - 1) + 2 * 4 * self.weights / bandwidth
        spans = self.fixed + self.each * (steps / ranks + 0.5 * self.again)
        return spans + sent + weights + 2 * self.link * ranks


def measured_cost(shape: tuple[int, int, int], cpu: bool, gathers: dict[int, float]) -> Cost:
    """Return the cost whose parts were measured while both ranks worked, without any exchange between them.

    Two processes of one machine share its memory's bandwidth; the printed ratio is what a part takes beside another
    over what it takes alone. So the prediction of two processes is of two that work at once.
    """
    batch, steps, units = shape
    alone, busy = processes(2, beside, shape)[0]
    (small, large), (lone, _) = ([one[int(cpu)] for one in some] for some in (busy, alone))
    each = (large - small) / (steps // 4 - steps // 8)
    latency = gathers[1]
    bandwidth = 4 * 999_999 / max(gathers[1_000_000] - gathers[1], 1e-9)
    print(f"{shape}: a step of T / 8 beside another process, over alone: {small / lone:.2f}")
    return Cost(shape, max(small - each * (steps // 8), 0.0), each, latency, bandwidth)


def project(cost: Cost) -> None:
    """Print the projection and draw it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    print("\nProjection, not measured: ms a step, and share of a linear speed-up. Latency of a hop 20 us.")
    for ax, gigabits in zip(axes, (10, 100), strict=True):
        rate = gigabits / 8 * 1e9
        for steps in (1 << 20, 1 << 24, 1 << 30):
            one = cost.step(steps, 1)
            ranks = [2**i for i in range(14) if steps // 2**i >= 1024]
            times = [cost.step(steps, p, 20e-6, rate) for p in ranks]
            ax.plot(ranks, [one / t / p for p, t in zip(ranks, times, strict=True)], marker=".", label=f"T = {steps:,}")
            best = ranks[min(range(len(ranks)), key=times.__getitem__)]
            some = ", ".join(
                f"{p}: {cost.step(steps, p, 20e-6, rate) * 1e3:,.0f} ms ({one / cost.step(steps, p, 20e-6, rate) / p:.0%})"
                for p in (8, 64, 512)
            )
            print(f"{gigabits:>4} Gb/s, T = {steps:>13,}: {some}; shortest at {best} ranks of up to {ranks[-1]}")
        ax.set_xscale("log", base=2)
        ax.set_title(f"Projection: {gigabits} Gb/s, 20 µs a hop")
        ax.set_xlabel("ranks in time")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("share of a linear speed-up")
    axes[0].legend()
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("counts", "times", "memory", "model", "cpu", "kept"):
        parser.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args()
    if asked.kept or asked.model:
        os.environ |= KEPT
    if asked.counts:
        print(
            "| T | collectives | numbers for states, messages and loss | numbers for the weights' gradients |\n|---|---|---|---|"
        )
        for steps, calls, numbers, weights in processes(2, count, 64)[0]:
            print(f"| {steps:,} | {calls} | {numbers} | {weights:,} |")
    times: dict[tuple[int, int, int], dict[str, float]] = {}
    if asked.times or asked.model:
        print(
            "\n| shape | two processes | one, one thread | | one, two threads | | waiting |\n|---|---|---|---|---|---|---|"
        )
        for shape in SHAPES:
            found = times[shape] = processes(2, timed, shape, asked.cpu)[0]
            two, one, both, waiting = (found[k] * 1e3 for k in found)
            print(
                f"| {shape} | {two:.0f} ms | {one:.0f} | {one / two:.2f} x | {both:.0f} | {both / two:.2f} x | {waiting:.0f} |"
            )
    if asked.memory:
        print("\nPeak of a process, MB: all of it | before the step | what T adds, data included | data\n")
        print("| shape | | all | before | T adds | data |\n|---|---|---|---|---|---|")
        for shape in SHAPES:
            two, one = processes(2, peak, shape, True)[0], processes(1, peak, shape, False)[0]
            for name, (whole, floor, data) in (("one process", one), ("a rank of two", two)):
                print(f"| {shape} | {name} | {whole:.0f} | {floor:.0f} | {whole - floor:.0f} | {data:.0f} |")
            print(f"| | ratio | {two[0] / one[0]:.2f} | | {(two[0] - two[1]) / (one[0] - one[1]):.2f} | |")
    if asked.model:
        gathers = processes(2, collective)[0]
        print("\ngather, us: " + ", ".join(f"{n:,} numbers {1e6 * s:.0f}" for n, s in gathers.items()))
        for shape in SHAPES:
            cost = measured_cost(shape, asked.cpu, gathers)
            told, was = cost.step(shape[1], 2) * 1e3, times[shape]["two processes"] * 1e3
            print(f"{shape}: predicted {told:.0f} ms, measured {was:.0f}: {told / was - 1:+.0%}")
        project(measured_cost(SHAPES[1], asked.cpu, gathers))


if __name__ == "__main__":
    main()
