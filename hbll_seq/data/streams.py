"""`Streams`: contiguous streams of long sequences, read window after window, so that a state can be carried on.

One long sequence, `(T,)` symbols or `(T, D)` features, becomes B streams of equal length, one after the other in time.
Fewer than B time steps at its end may be left out of training; the history's `config["streams"]` says how many. Of a
batch of N long sequences, `(N, T)` or `(N, T, D)`, each is a stream, and B of them are read side by side. Windows come
in order; the last one of a stream may be shorter. Streams start at the first window of every epoch, and of every group
of sequences; `begins` says where. Evaluation reads whole sequences and leaves nothing out.

Targets y are `(T,)` or `(T, C)`, or `(N, T)` or `(N, T, C)`; None for next-step prediction. Batch number i is a
function of (seed, i) alone here too. The state carried into it is not part of the source (`training.carried`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.expected import Expected
from hbll_seq.data.scalars import LARGEST, integer
from hbll_seq.data.series import Place, Series, as_series, gather, keep_type
from hbll_seq.data.sources import MIX
from hbll_seq.data.targets import check_targets
from hbll_seq.errors import InputError

WINDOW = 256  # time steps of a training window, unless given


@dataclass(frozen=True)
class Streams:
    """A source of batches whose rows go on from batch to batch.

    Attributes:
        series: the inputs, `(N, T, ...)`.
        y: `(N, T, ...)` targets as they came; None for next-step prediction.
        mask: `(N, T)` bool, or None.
        window: time steps of a window; None: 256 in training, or the stream's length if that is less; in evaluation,
            where nothing depends on it, a size that keeps memory small.
        ignore_index: label of time steps that do not count.
    """

    series: Series
    y: Tensor | None
    mask: Tensor | None
    window: int | None
    ignore_index: int

    @property
    def ahead(self) -> int:
        """The time steps by which a target is ahead of its input: 1 for next-step prediction, else 0."""
        return int(self.y is None)

    @property
    def inputs(self) -> int:
        """The time steps of a sequence that have a target."""
        return self.series.x.shape[1] - self.ahead

    def length(self, batch_size: int) -> int:
        """Return the time steps of a stream.

        Raises:
            InputError: fewer time steps than streams, or a window longer than a stream.
        """
        if not self.series.single:
            streams, steps = len(self.series.x), self.inputs
        else:
            streams, steps = batch_size, self.inputs // batch_size
        if steps < 1:
            raise InputError("batch_size", batch_size, f"at most {self.inputs}: streams of {self.inputs} steps in all")
        if self.window is not None and self.window > steps:
            fewer = "; a smaller batch_size makes longer streams" if self.series.single and streams > 1 else ""
            raise InputError("window", self.window, f"at most {steps}, the steps of each of {streams} streams{fewer}")
        return steps

    def describe(self, batch_size: int) -> dict[str, int]:
        """Return, for the history, the number of streams, the time steps of each, and the time steps left out."""
        steps = self.length(batch_size)
        streams = batch_size if self.series.single else len(self.series.x)
        left_out = self.inputs * len(self.series.x) - streams * steps
        return {"streams": streams, "time_steps": steps, "left_out": left_out}

    def _width(self, batch_size: int) -> int:
        return min(WINDOW, self.length(batch_size)) if self.window is None else self.window

    def _windows(self, batch_size: int) -> int:
        return -(-self.length(batch_size) // self._width(batch_size))

    def _groups(self, batch_size: int) -> int:
        return 1 if self.series.single else -(-len(self.series.x) // batch_size)

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`."""
        return self._windows(batch_size) * self._groups(batch_size)

    def longest(self) -> int | None:
        """See `Source`: the time steps of a window."""
        return min(self.window or WINDOW, self.inputs)

    def begins(self, step: int, batch_size: int) -> bool:
        """Return whether training batch number `step` starts its streams."""
        return step % self._windows(batch_size) == 0

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`. Sequences of a batch are permuted each epoch if they do not all fit in one batch."""
        return self._take(*self.window_of(step, batch_size, seed))

    def window_of(self, step: int, batch_size: int, seed: int) -> tuple[list[Place], int, int]:
        """Return where the streams of training batch number `step` start, its first time step in them, and its size."""
        epoch, at = divmod(step, self.steps_per_epoch(batch_size))
        group, number = divmod(at, self._windows(batch_size))
        width, length = self._width(batch_size), self.length(batch_size)
        first = number * width
        if self.series.single:
            places = [(0, one * length) for one in range(batch_size)]
        else:
            rows = torch.arange(len(self.series.x))
            if len(rows) > batch_size:
                rows = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed * MIX + epoch))
            places = [(int(row), 0) for row in rows[group * batch_size : (group + 1) * batch_size]]
        return places, first, min(width, length - first)

    def rows(self, step: int, batch_size: int) -> int:
        """Return the number of sequences of training batch number `step`."""
        if self.series.single:
            return batch_size
        group = step % self.steps_per_epoch(batch_size) // self._windows(batch_size)
        return min(batch_size, len(self.series.x) - group * batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`."""
        for _, batch in self.whole(batch_size):
            yield batch

    def whole(self, batch_size: int) -> Iterator[tuple[bool, Batch]]:
        """Iterate over whole sequences, nothing left out: whether a batch starts its sequences, and the batch."""
        for places, first, width in self.series.windows(self.inputs, batch_size, self.window):
            yield first == 0, self._take(places, first, width)

    def _take(self, places: list[Place], first: int, width: int) -> Batch:
        """Return one window of several streams.

        Raises:
            InputError: values or targets that the model cannot have, with the window's time steps.
        """
        model, long = self.series.model, width + self.ahead
        try:
            x = self.series.take(places, first, long)
            y, mask = (
                None if one is None else gather(one, places, first, long, name)
                for one, name in ((self.y, "y"), (self.mask, "mask"))
            )
            lengths = torch.full((len(x),), long)
            return Batch(*check_targets(x, lengths, y, mask, model, self.ignore_index, some=False))
        except InputError as error:
            where = f"{error.got}, counted from step {places[0][1] + first}" if first else str(error.got)
            raise InputError(error.argument, where, error.expected) from error

    def tail(self, fraction: float) -> "tuple[Streams, Streams]":
        """See `Source`. Cuts one sequence in time, a batch between its sequences; the tail starts from a zero state."""
        axis = int(self.series.single)
        size = self.series.x.shape[axis]
        cut, least = size - max(1, round(size * fraction)), 1 + (self.ahead if axis else 0)
        if not least <= cut <= size - least:
            what = "steps" if axis else "sequences"
            raise InputError("validation", f"{fraction} of {size} {what}", "a fraction that leaves some on either side")
        before, after = self._part(axis, 0, cut, self.window), self._part(axis, cut, size - cut, None)
        for part, which in ((before, "first"), (after, "last")):
            if not part.targeted():
                came = f"{fraction}, and no step that counts in the {which} part"
                raise InputError("validation", came, "targets that count on either side")
        return before, after

    def _part(self, axis: int, start: int, size: int, window: int | None) -> "Streams":
        x, y, mask = (
            None if one is None else one.narrow(axis, start, size) for one in (self.series.x, self.y, self.mask)
        )
        assert x is not None
        return Streams(Series(x, self.series.single, self.series.model), y, mask, window, self.ignore_index)

    def targeted(self) -> bool:
        """Read everything once, which checks it, and return whether any target counts."""
        return any([batch.targeted() for batch in replace(self, window=None).in_order(64)])


def as_streams(
    x: Any, y: Any, model: Expected, *, mask: Any = None, window: int | None = None, ignore_index: int = -100,
    read: bool = True,
) -> Streams:  # fmt: skip
    """Check long sequences and their targets; nothing of their size is copied.

    Args:
        x: see `as_series`.
        y: targets of every time step, with the leading axes of x; None for next-step prediction.
        model: the model that reads x and predicts y.
        mask: as y, bool: True where a target counts.
        window: time steps of a window, or None (`Streams.window`).
        ignore_index: label of time steps that do not count.
        read: read everything once, to check its values.

    Raises:
        InputError: names the argument, the value given and the value expected.
    """
    window = None if window is None else integer("window", window, extra=", or None")
    ignore_index = integer("ignore_index", ignore_index, least=-LARGEST)
    series = as_series(x, model)
    if model.task == "next":
        if y is not None:
            raise InputError("y", "targets", "None: a next-step model predicts its own input")
        if series.x.shape[1] < 2:
            raise InputError("x", f"{series.x.shape[1]} step", "at least 2 for next-step prediction")
    elif y is None:
        raise InputError("y", "None", f"targets: the model's task is {model.task!r}")
    source = Streams(series, _along(y, series, "y"), _along(mask, series, "mask"), window, ignore_index)
    if read and not source.targeted():
        which = "mask" if model.task == "next" else "y"
        raise InputError(which, "no step that counts", "at least one target that is not ignored or masked")
    return source


def _along(value: Any, series: Series, name: str) -> Tensor | None:
    """Return values of every time step, `(N, T, ...)`, in their own type."""
    if value is None:
        return None
    n, t = series.x.shape[:2]
    found = keep_type(value, name, "one value a step of x")
    if series.single and found.shape[:2] != (1, t):
        found = found.unsqueeze(0)
    if found.shape[:2] != (n, t) or (name == "mask" and found.ndim != 2):
        came = tuple(found.shape[1:] if series.single else found.shape)
        raise InputError(name, f"shape {came}", f"one a step of x: ({'' if series.single else f'{n}, '}{t}, ...)")
    return found
