"""CUDA graphs: a fixed sequence of kernel launches, recorded once, then started as one.

A recording reads and writes the memory it was made with: new inputs are copied into that memory, and results are gone
with the next replay. What runs inside must not wait for the device (`.item()`, an `if` on a tensor), copy from the
host, or keep work buffers that others use. **Written for GPUs and not yet run on one**: tests replace the recorder by
one for the CPU that keeps to the same rules (`tests/recorder.py`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

Replay = Callable[[], None]


class Recorder(Protocol):
    """Records calls of one owner into memory of their own."""

    def warm(self, run: Callable[[], Any]) -> None:
        """Run once without recording: libraries set themselves up, which must not happen inside a recording."""
        ...

    def record(self, run: Callable[[], Any]) -> tuple[Replay, Any]:
        """What replays `run`, and its result, whose memory every replay writes anew."""
        ...


class CudaGraphs:
    """`Recorder` on the current CUDA device; its recordings share a memory pool, in the order they were made."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, run: Callable[[], Any]) -> None:
        """See `Recorder.warm`; on a stream of its own, as PyTorch asks for."""
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
    """A recorder for tensors on `device`, or None where there is none."""
    return CudaGraphs() if device.type == "cuda" else None
