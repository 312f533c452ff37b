"""Processes on this machine that wait for work, so that their start is paid once for all tests.

No wait here is without a bound. After a failure, or an answer that is late, the processes are ended and new ones are
started: none of them goes on with the work of an earlier test.
"""

import datetime
import multiprocessing
import multiprocessing.connection
import pathlib
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

COLLECTIVE = 120  # seconds that a rank waits for the others
ANSWER = 300  # seconds for all of a test's work, also on a busy machine
AFTER = 2  # seconds for the others' words, once one rank has failed


class Pool:
    """Processes 0..size-1 with groups of the first 1, 2, ... of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._start()

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        file = pathlib.Path(self._folder.name) / "meet"
        pairs = [context.Pipe() for _ in range(self.size)]
        self._ends = [mine for mine, _ in pairs]
        self._processes = [
            context.Process(target=_serve, args=(rank, self.size, str(file), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for one, (_, theirs) in zip(self._processes, pairs, strict=True):
            one.start()
            theirs.close()  # so that a process that dies closes its pipe

    def run(self, ranks: int, work: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `work(group, *args)` on the first `ranks` processes; return the results by rank.

        Raises:
            AssertionError: a rank failed, died or did not answer; all processes are new ones then.
        """
        answers = self.answers(ranks, work, *args)
        wrong = [f"rank {rank}: {said}" for rank, (fine, said) in answers.items() if not fine]
        wrong += [f"rank {rank} did not answer" for rank in range(ranks) if rank not in answers]
        if wrong:
            self.kill()
            self._start()
            raise AssertionError("\n".join(wrong))
        return [answers[rank][1] for rank in range(ranks)]

    def answers(self, ranks: int, work: Callable[..., Any], *args: Any) -> dict[int, tuple[bool, Any]]:
        """Call `work` likewise; return by rank whether it went well, and its result, or what went wrong."""
        for end in self._ends[:ranks]:
            end.send((ranks, work, args))
        waiting = {end: rank for rank, end in enumerate(self._ends[:ranks])}
        found: dict[int, tuple[bool, Any]] = {}
        until = time.monotonic() + ANSWER
        while waiting and (left := until - time.monotonic()) > 0:
            for end in multiprocessing.connection.wait(list(waiting), left):
                rank = waiting.pop(end)
                try:
                    found[rank] = end.recv()
                except (EOFError, OSError):
                    self._processes[rank].join(AFTER)
                    found[rank] = False, f"it ended with status {self._processes[rank].exitcode}"
                if not found[rank][0]:
                    until = min(until, time.monotonic() + AFTER)
        return found

    def kill(self) -> None:
        """End the processes; a wait for an orderly end would take seconds."""
        for one in self._processes:
            one.kill()
        for one in self._processes:
            one.join(10)
        for end in self._ends:
            end.close()
        self._folder.cleanup()


def _serve(rank: int, size: int, file: str, pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=COLLECTIVE)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=limit)
    # without a timeout of its own a group waits for half an hour
    groups = {n: dist.new_group(list(range(n)), timeout=limit) for n in range(1, size + 1)}
    while True:
        ranks, work, args = pipe.recv()
        torch.manual_seed(0)
        try:
            pipe.send((True, work(groups[ranks], *args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
