"""Processes on this machine that wait for work, so that their start is paid once for all tests."""

import datetime
import multiprocessing
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

SECONDS = 600


class Pool:
    """Processes 0..size-1 with groups of the first 1, 2, ... of them."""

    def __init__(self, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        file = pathlib.Path(self._folder.name) / "meet"
        pairs = [context.Pipe() for _ in range(size)]
        self._ends = [mine for mine, _ in pairs]
        self._processes = [
            context.Process(target=_serve, args=(rank, size, str(file), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for one in self._processes:
            one.start()

    def run(self, ranks: int, work: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `work(group, *args)` on the first `ranks` processes; return the results by rank."""
        for end in self._ends[:ranks]:
            end.send((ranks, work, args))
        found = []
        for rank, end in enumerate(self._ends[:ranks]):
            assert end.poll(SECONDS), f"rank {rank} did not answer"
            ok, value = end.recv()
            assert ok, f"rank {rank}:\n{value}"
            found.append(value)
        return found

    def kill(self) -> None:
        for one in self._processes:
            one.kill()
        self._folder.cleanup()

    def close(self) -> None:
        for end in self._ends:
            end.send(None)
        for one in self._processes:
            one.join(10)
            if one.is_alive():
                one.kill()
        self._folder.cleanup()


def _serve(rank: int, size: int, file: str, pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=limit)
    groups = {n: dist.new_group(list(range(n))) for n in range(1, size + 1)}
    while (asked := pipe.recv()) is not None:
        ranks, work, args = asked
        torch.manual_seed(0)
        try:
            pipe.send((True, work(groups[ranks], *args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    sys.stdout.flush()
    dist.destroy_process_group()
