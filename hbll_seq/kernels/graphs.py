"""CUDA graphs: a fixed sequence of kernel launches, recorded once, then started as one.

A recording reads and writes the memory it was made with: new inputs are copied into that memory, and the next replay
overwrites results. Recorded code must not wait for the device (`.item()`, an `if` on a tensor), copy from the
host, or keep work buffers that others use. **Written for GPUs and not yet run on one**: tests replace the recorder by
one for the CPU with the same rules (`tests/recorder.py`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

Replay = Callable[[], None]


class Recorder(Protocol):
    """A recorder of one owner's calls, with memory of its own."""

    def warm(self, run: Callable[[], Any]) -> None:
        """Run once without recording, because the set-up of libraries must not be recorded."""
        ...

    def record(self, run: Callable[[], Any]) -> tuple[Replay, Any]:
        """Record `run`; return a function that replays it, and its result, whose memory every replay overwrites."""
        ...


class CudaGraphs:
    """A `Recorder` on the current CUDA device; its recordings share a memory pool, in the order they were made."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, run: Callable[[], Any]) -> None:
        """See `Recorder.warm`; runs on a stream of its own, as PyTorch requires."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            run()
        here.wait_stream(aside)

    def record(self, run: Callable[[], Any]) -> tuple[Replay, Any]:
        """See `Recorder.record`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()
        return graph.replay, result


def recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for tensors on `device`, or None if there is none."""
    return CudaGraphs() if device.type == "cuda" else None
