"""Where batches come from: sequences in memory, one long text, or a user's DataLoader.

Which sequences are in batch number i is a function of (seed, i) alone, so a resumed run needs no
saved iterator: it asks for batch i.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.errors import InputError

MIX = 1_000_003  # seed and epoch or step into one generator seed


class Source(Protocol):
    """What `fit` and `evaluate` need to know of data."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches until every sequence was seen once (windows of a text: until as many steps were)."""
        ...

    def longest(self) -> int | None:
        """Steps of the longest sequence, where that is known."""
        ...

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Training batch number `step`."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Everything once, in order, for evaluation."""
        ...

    def tail(self, fraction: float) -> "tuple[Source, Source]":
        """What comes before the last `fraction`, and that tail."""
        ...


@dataclass
class Padded:
    """Sequences in memory, padded to the longest."""

    x: Tensor
    lengths: Tensor
    y: Tensor
    mask: Tensor | None

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`."""
        return -(-len(self.x) // batch_size)

    def longest(self) -> int | None:
        """See `Source`."""
        return int(self.lengths.max())

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`: each epoch is a permutation; the last batch of an epoch may be smaller."""
        epoch, at = divmod(step, self.steps_per_epoch(batch_size))
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed * MIX + epoch))
        return self._take(order[at * batch_size : (at + 1) * batch_size])

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`."""
        for part in torch.arange(len(self.x)).split(batch_size):
            yield self._take(part)

    def _take(self, rows: Tensor) -> Batch:
        lengths = self.lengths[rows]
        t = int(lengths.max())  # no step that is padding for every row
        y = self.y[rows] if self.mask is None else self.y[rows, :t]
        return Batch(self.x[rows, :t], lengths, y, None if self.mask is None else self.mask[rows, :t])

    def tail(self, fraction: float) -> "tuple[Padded, Padded]":
        """See `Source`: whole sequences, at least one in the tail."""
        cut = len(self.x) - max(1, round(len(self.x) * fraction))
        if cut < 1:
            raise InputError(
                "validation",
                f"{fraction} of {len(self.x)} sequences",
                "a fraction that leaves some to train on",
            )
        before, after = self._part(slice(0, cut)), self._part(slice(cut, None))
        for part, which in ((before, "first"), (after, "last")):
            if part.mask is not None and not part.mask.any():
                came = f"{fraction}, and no step that counts in the {which} {len(part.x)} sequences"
                raise InputError("validation", came, "targets that count on either side")
        return before, after

    def _part(self, rows: slice) -> "Padded":
        return Padded(self.x[rows], self.lengths[rows], self.y[rows], None if self.mask is None else self.mask[rows])


@dataclass
class LongText:
    """One long sequence of symbols; windows of `window` steps are drawn at random, or laid end to end.

    The symbols keep the integer type they came in: a text of bytes stays one byte a symbol.
    """

    symbols: Tensor
    window: int

    def __post_init__(self) -> None:
        """The window is at most the text."""
        if len(self.symbols) < 2:
            raise InputError("x", f"a text of {len(self.symbols)} symbols", "at least 2 for next-step prediction")
        self.window = min(self.window, len(self.symbols) - 1)

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`."""
        return max(1, -(-(len(self.symbols) - 1) // (self.window * batch_size)))

    def longest(self) -> int | None:
        """See `Source`."""
        return self.window

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`."""
        g = torch.Generator().manual_seed(seed * MIX + step)
        starts = torch.randint(len(self.symbols) - self.window, (batch_size,), generator=g)
        return self._cut(starts, self.window)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`: every symbol but the first is predicted once; the last window may be shorter."""
        n = len(self.symbols) - 1
        whole = n // self.window
        for starts in (torch.arange(whole) * self.window).split(batch_size):
            if len(starts):
                yield self._cut(starts, self.window)
        if n % self.window:
            yield self._cut(torch.tensor([whole * self.window]), n % self.window)

    def _cut(self, starts: Tensor, width: int) -> Batch:
        w = torch.stack([self.symbols[i : i + width + 1] for i in starts.tolist()]).to(torch.int64)
        lengths = torch.full((len(w),), width)
        return Batch(
            w[:, :-1].contiguous(),
            lengths,
            w[:, 1:].contiguous(),
            torch.ones(len(w), width, dtype=torch.bool),
        )

    def tail(self, fraction: float) -> "tuple[LongText, LongText]":
        """See `Source`: one cut, so that no held-out window overlaps what is trained on."""
        cut = round(len(self.symbols) * (1 - fraction))
        if not 2 <= cut <= len(self.symbols) - 2:
            raise InputError(
                "validation",
                f"{fraction} of a text of {len(self.symbols)} symbols",
                "a fraction that leaves at least 2 symbols on either side",
            )
        return LongText(self.symbols[:cut], self.window), LongText(self.symbols[cut:], self.window)


@dataclass
class Loader:
    """A user's DataLoader: its batches as they come, over and over.

    Whatever the loader draws from torch's global random state (its shuffling, augmentation in the dataset)
    is a function of (seed, i) too, and leaves that state as it was; a resumed run reads past the batches it has seen.
    A loader with a `generator` of its own, or worker processes with other sources of chance, answers for those itself.
    """

    loader: DataLoader[Any]
    convert: Callable[[Any], Batch]

    def __post_init__(self) -> None:
        """Start before the first batch."""
        self._next, self._stream = 0, iter(())
        self._latest: tuple[int, int, Batch] | None = None  # step and seed of the batch given last
        self._empty = 0  # batches in a row in which no target counts

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`; the loader's own batch size counts."""
        try:
            return len(self.loader)
        except TypeError:
            raise InputError("steps", "None, and a DataLoader without a length", "steps=") from None

    def longest(self) -> int | None:
        """See `Source`: not known before everything was read."""
        return None

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`; steps are asked for in rising order, the same one again where it was only looked at."""
        if self._latest is not None and self._latest[:2] == (step, seed):
            return self._latest[2]
        if step < self._next:
            self.__post_init__()
        while True:
            item = self._draw(seed * MIX + self._next)
            if item is None:
                self._refuse_untargeted()
                item = self._draw(seed * MIX + self._next, anew=True)
            if item is None:
                raise InputError("x", "a DataLoader without batches", "at least one batch")
            self._next += 1
            if self._next > step:
                break
        batch = self.convert(item)
        self._empty = 0 if batch.targeted() else self._empty + 1
        self._latest = step, seed, batch
        return batch

    def _draw(self, seed: int, anew: bool = False) -> Any:
        """The next item, None at the end; the global random state stays as it is."""
        with borrowed_generators(seed=seed):
            if anew:
                self._stream = iter(self.loader)
            return next(self._stream, None)

    def _refuse_untargeted(self) -> None:
        """An epoch in which nothing counts would train for ever on nothing."""
        if self._empty and self._empty >= self._next:
            raise InputError(
                "y", f"{self._empty} batches without a step that counts", "at least one target that counts"
            )

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`; drawn as with seed 0."""
        other, number = Loader(self.loader, self.convert), 0
        while (item := other._draw(number, anew=not number)) is not None:
            number += 1
            yield self.convert(item)

    def tail(self, fraction: float) -> "tuple[Loader, Loader]":
        """A loader has no end to hold out."""
        raise InputError("validation", "a fraction of a DataLoader", "held-out data")
