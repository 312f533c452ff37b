"""`SharedStreams`: streams of which this process reads only its own sequences and time steps, for runs of several.

Every rank draws the same windows by number, and reads its share of each from memory or a mapped file. So P ranks read
the data once together, and none of them all of it. Another thread reads the next window while the current one trains.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from hbll_seq.data.batch import Batch
from hbll_seq.data.streams import Streams

# B and T of a whole batch -> this rank's sequences, its first time step, and the one after its last
Cut = Callable[[int, int], tuple[slice, int, int]]
Asked = tuple[int, int, int]  # number of a batch, batch size, seed


@dataclass(frozen=True)
class SharedStreams(Streams):
    """Streams with a share for this rank.

    Attributes:
        cut: see `Cut`.
    """

    cut: Cut
    _coming: dict[Asked, "Future[Batch]"] = field(default_factory=dict, repr=False, compare=False)
    _pool: list[ThreadPoolExecutor] = field(default_factory=list, repr=False, compare=False)

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Return this rank's part of training batch number `step`, with the size of the whole in `whole`."""
        asked = step, batch_size, seed
        coming = self._coming.pop(asked, None)
        self._coming.clear()
        if not self._pool:
            self._pool.append(ThreadPoolExecutor(1))
        self._coming[step + 1, batch_size, seed] = self._pool[0].submit(self._read, step + 1, batch_size, seed)
        return self._read(*asked) if coming is None else coming.result()

    def whole_batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Return all of training batch number `step`."""
        return super().batch(step, batch_size, seed)

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._coming.clear()
        for one in self._pool:
            one.shutdown(cancel_futures=True)
        self._pool.clear()

    def check(self, batch_size: int) -> bool:
        """Read this rank's part of one epoch, which checks it; return whether any target counts there.

        Raises:
            InputError: values or targets that the model cannot have.
        """
        return any([self._read(i, batch_size, 0).targeted() for i in range(self.steps_per_epoch(batch_size))])

    def _read(self, step: int, batch_size: int, seed: int) -> Batch:
        places, first, width = self.window_of(step, batch_size, seed)
        rows, begin, stop = self.cut(len(places), width)
        mine = places[rows]
        batch = self._take(mine or places[:1], first + begin, stop - begin)
        if not mine:  # more ranks than sequences
            mask = None if batch.mask is None else batch.mask[:0]
            batch = Batch(batch.x[:0], batch.lengths[:0], batch.y[:0], mask)
        return batch._replace(whole=(len(places), width))


def shared(source: Streams, cut: Cut) -> SharedStreams:
    """Return streams with a share for this rank."""
    values: dict[str, Any] = {name: getattr(source, name) for name in ("series", "y", "mask", "window", "ignore_index")}
    return SharedStreams(**values, cut=cut)
