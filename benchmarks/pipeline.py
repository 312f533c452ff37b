"""Spans in a pipeline: two processes where states fade and where they do not, rounds beside micro-batches.

    python -m benchmarks.pipeline [--shape 8 16384 128] [--parts 2 4 8] [--rounds 5]

A GRU with a read-out as in `benchmarks.scale`: as PyTorch initialises it, whose memory fades within a few hundred time
steps, and with the chrono initialisation of timescale 1000, whose memory does not fade within a span. Sides: one
process of one thread; two of one thread with all spans at once, corrected in rounds (`micro_batches=None`); and two in
a pipeline of so many micro-batches. They alternate in every round; the table has the least time of each, by the clock.
Processes keep the memory that they free (`benchmarks.scale --kept`).
"""

import argparse
import os
import time

import torch
import torch.distributed as dist

from benchmarks.scale import KEPT, Side, processes
from hbll_seq import distributed as hd

TIMESCALE = 1000


def chrono(side: Side) -> Side:
    """Give the update gate biases of which units remember 1 to 1,000 time steps."""
    units = side.rnn.hidden_size
    with torch.no_grad():
        drawn = 1 + (TIMESCALE - 1) * torch.rand(units, generator=torch.Generator().manual_seed(0))
        side.rnn.bias_ih_l0[units : 2 * units] = drawn.log()
        side.rnn.bias_hh_l0[units : 2 * units] = 0
    return side


def timed(rank: int, shape: tuple[int, int, int], parts: list[int], rounds: int, long: bool) -> dict[str, float]:
    """Return the least seconds of a step of every side, and how many spans ran again in one with rounds."""
    prepared = chrono if long else lambda side: side
    sides = {}
    for count in (None, *parts):
        with hd.time_sharded(steps=shape[1], micro_batches=count) as shards:
            sides[count] = prepared(Side(*shape, shards)), shards
    alone = prepared(Side(*shape, None)) if rank == 0 else None
    taken: dict[str, list[float]] = {}
    again = 0.0
    for i in range(rounds + 1):
        for count in ("one", None, *parts):
            dist.barrier()
            began = time.perf_counter()
            if isinstance(count, str):
                if alone is not None:
                    alone.step()
            else:
                side, shards = sides[count]
                before = shards.group.traffic.copy()
                with hd.shards.spread(shards):
                    side.step()
                if count is None:
                    sent = shards.group.traffic.since(before)
                    again = sent.again / sent.passes
            dist.barrier()
            if i:  # the first round compiles
                taken.setdefault(str(count), []).append(time.perf_counter() - began)
    return {name: min(all_) for name, all_ in taken.items()} | {"again": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[8, 16384, 128])
    parser.add_argument("--parts", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    os.environ |= KEPT
    print(
        f"| {tuple(asked.shape)} | one process | rounds | | " + " | | ".join(f"M = {m}" for m in asked.parts) + " | |"
    )
    print("|---" * (2 * len(asked.parts) + 4) + "|")
    for long in (False, True):
        found = processes(2, timed, tuple(asked.shape), asked.parts, asked.rounds, long)[0]
        one = found["one"]
        cells = [f"{1e3 * found[str(m)]:.0f} ms | {one / found[str(m)]:.2f} x" for m in (None, *asked.parts)]
        print(f"| {'chrono 1000' if long else 'fades'} | {1e3 * one:.0f} ms | " + " | ".join(cells) + " |")
        print(f"  first rank: {found['again']:.0%} of its passes again, with rounds", flush=True)


if __name__ == "__main__":
    main()
