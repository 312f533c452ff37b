"""Sources of batches: sequences in memory, one long text, or a user's DataLoader.

Batch number i is a function of (seed, i) alone. So a resumed run needs no saved iterator: it asks for batch i.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.errors import InputError

MIX = 1_000_003  # combines the seed with an epoch or update number into one generator seed


class Source(Protocol):
    """The data interface of `fit` and `evaluate`."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches of one epoch (of a text: until the windows cover its length once)."""
        ...

    def longest(self) -> int | None:
        """Return the time steps of the longest sequence, or None if unknown."""
        ...

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Return training batch number `step`."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all data once, in order, for evaluation."""
        ...

    def tail(self, fraction: float) -> "tuple[Source, Source]":
        """Split off the last `fraction`: return the part before it, and the tail."""
        ...


class Renew(Protocol):
    """A function that makes training batches anew, for augmentation."""

    def __call__(self, batch: Batch, rows: Sequence[int], epoch: int, seed: int) -> Batch:
        """Return what takes the place of `batch`, these rows of the source: a function of the arguments alone."""
        ...

    def longest(self, steps: int) -> int:
        """Return the most time steps that a sequence of `steps` may get."""
        ...


@dataclass
class Padded:
    """Sequences in memory, padded to the longest.

    Attributes:
        x, lengths, y, mask: as in `Batch`, of all sequences.
        renew: makes training batches anew; None for the data as they are. `in_order` and the held-out tail never are.
    """

    x: Tensor
    lengths: Tensor
    y: Tensor
    mask: Tensor | None
    renew: Renew | None = field(default=None, kw_only=True)

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`."""
        return -(-len(self.x) // batch_size)

    def longest(self) -> int | None:
        """See `Source`."""
        steps = int(self.lengths.max())
        return steps if self.renew is None else self.renew.longest(steps)

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`. Each epoch is a permutation; its last batch may be smaller."""
        rows, epoch = self.rows(step, batch_size, seed), step // self.steps_per_epoch(batch_size)
        batch = self._take(rows)
        return batch if self.renew is None else self.renew(batch, rows.tolist(), epoch, seed)

    def rows(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Return the numbers of the sequences of training batch number `step`."""
        epoch, at = divmod(step, self.steps_per_epoch(batch_size))
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed * MIX + epoch))
        return order[at * batch_size : (at + 1) * batch_size]

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`."""
        for part in torch.arange(len(self.x)).split(batch_size):
            yield self._take(part)

    def _take(self, rows: Tensor) -> Batch:
        lengths = self.lengths[rows]
        t = int(lengths.max())  # drop time steps that are padding in every row
        y = self.y[rows] if self.mask is None else self.y[rows, :t]
        return Batch(self.x[rows, :t], lengths, y, None if self.mask is None else self.mask[rows, :t])

    def tail(self, fraction: float) -> "tuple[Padded, Padded]":
        """See `Source`. Cuts between sequences; at least one is in the tail."""
        cut = len(self.x) - max(1, round(len(self.x) * fraction))
        if cut < 1:
            raise InputError(
                "validation",
                f"{fraction} of {len(self.x)} sequences",
                "a fraction that leaves some to train on",
            )
        before, after = self._part(slice(0, cut)), self._part(slice(cut, None))
        before.renew = self.renew
        for part, which in ((before, "first"), (after, "last")):
            if part.mask is not None and not part.mask.any():
                came = f"{fraction}, and no step that counts in the {which} {len(part.x)} sequences"
                raise InputError("validation", came, "targets that count on either side")
        return before, after

    def _part(self, rows: slice) -> "Padded":
        return Padded(self.x[rows], self.lengths[rows], self.y[rows], None if self.mask is None else self.mask[rows])


@dataclass
class LongText:
    """One long sequence of symbols; `window` time steps a window, drawn at random or laid end to end.

    The symbols keep the integer type they came in: a text of bytes stays one byte a symbol.
    """

    symbols: Tensor
    window: int

    def __post_init__(self) -> None:
        """Limit the window to the text."""
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
        """See `Source`. Every symbol but the first is predicted once; the last window may be shorter."""
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
        """See `Source`. Cuts once, so that no held-out window overlaps the training data."""
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
    """A user's DataLoader: its batches in its own order, over and over.

    The loader's draws from torch's global random state (shuffling, augmentation in the dataset) are a function of
    (seed, i) and leave that state as it was. A resumed run reads past the batches it has seen. A loader with a
    `generator` of its own, or with worker processes that draw elsewhere, is responsible for its own reproducibility.
    """

    loader: DataLoader[Any]
    convert: Callable[[Any], Batch]

    def __post_init__(self) -> None:
        """Start before the first batch."""
        self._next, self._stream = 0, iter(())
        self._latest: tuple[int, int, Batch] | None = None  # number and seed of the latest batch
        self._empty = 0  # batches in a row in which no target counts

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`; the loader's own batch size counts."""
        try:
            return len(self.loader)
        except TypeError:
            raise InputError("steps", "None, and a DataLoader without a length", "steps=") from None

    def longest(self) -> int | None:
        """See `Source`. Always None: only reading all data would tell."""
        return None

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`. `step` may only rise; the latest one may be asked for again."""
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
        """Return the next item, None at the end; the global random state stays as it is."""
        with borrowed_generators(seed=seed):
            if anew:
                self._stream = iter(self.loader)
            return next(self._stream, None)

    def _refuse_untargeted(self) -> None:
        """Refuse an epoch in which no target counts: training would never make an update."""
        if self._empty and self._empty >= self._next:
            raise InputError(
                "y", f"{self._empty} batches without a step that counts", "at least one target that counts"
            )

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`; the loader draws as with seed 0."""
        other, number = Loader(self.loader, self.convert), 0
        while (item := other._draw(number, anew=not number)) is not None:
            number += 1
            yield self.convert(item)

    def tail(self, fraction: float) -> "tuple[Loader, Loader]":
        """Refuse: a loader has no end to hold out."""
        raise InputError("validation", "a fraction of a DataLoader", "held-out data")
