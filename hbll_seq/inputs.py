"""From whatever a user has to batches: every input form, checked before any work starts.

Accepted as x: a tensor or NumPy array `(N, T)` of symbols or `(N, T, D)` of features; one unbatched sequence;
a list of sequences of different lengths; `(x, lengths)`; a `PackedSequence`; a `Dataset` or a `DataLoader`
that yield x, `(x, y)` or `(x, y, lengths)`; and for next-step models one long 1-D text, from which
windows are cut. All become `Batch`es: padded, with lengths and mask.

Which sequences are in batch number i is a function of (seed, i) alone, so a resumed run needs no
saved iterator: it asks for batch i.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset

from hbll_seq.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.targets import check_targets

MIX = 1_000_003  # seed and epoch or step into one generator seed


class Source(Protocol):
    """Where batches come from.

    Attributes:
        steps_per_epoch: batches until every sequence was seen once (windows: until as many steps were).
    """

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in one epoch."""
        ...

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """Training batch number `step`."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Everything once, in order, for evaluation."""
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
        """The first sequences, and the last `fraction` of them (at least one)."""
        cut = len(self.x) - max(1, round(len(self.x) * fraction))
        if cut < 1:
            raise InputError(
                "validation",
                f"{fraction} of {len(self.x)} sequences",
                "a fraction that leaves some to train on",
            )
        pick = lambda s: Padded(self.x[s], self.lengths[s], self.y[s], None if self.mask is None else self.mask[s])  # noqa: E731
        return pick(slice(0, cut)), pick(slice(cut, None))


@dataclass
class LongText:
    """One long sequence of symbols; windows of `window` steps are drawn at random, or laid end to end."""

    symbols: Tensor
    window: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`."""
        return max(1, -(-(len(self.symbols) - 1) // (self.window * batch_size)))

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
        w = torch.stack([self.symbols[i : i + width + 1] for i in starts.tolist()])
        lengths = torch.full((len(w),), width)
        return Batch(
            w[:, :-1].contiguous(),
            lengths,
            w[:, 1:].contiguous(),
            torch.ones(len(w), width, dtype=torch.bool),
        )

    def tail(self, fraction: float) -> "tuple[LongText, LongText]":
        """The text without its last `fraction`, and that tail."""
        cut = round(len(self.symbols) * (1 - fraction))
        return (as_text(self.symbols[:cut], self.window), as_text(self.symbols[cut:], self.window))


def as_text(symbols: Tensor, window: int) -> LongText:
    """A long text; the window is at most the text."""
    if len(symbols) < 2:
        raise InputError("x", f"a text of {len(symbols)} symbols", "at least 2 for next-step prediction")
    return LongText(symbols, min(window, len(symbols) - 1))


@dataclass
class Loader:
    """A user's DataLoader: its batches as they come, over and over. A resumed run skips those it has seen."""

    loader: DataLoader[Any]
    model: SequenceModel
    ignore_index: int

    def __post_init__(self) -> None:
        """Start before the first batch."""
        self._next, self._stream = 0, iter(self.loader)

    def steps_per_epoch(self, batch_size: int) -> int:
        """See `Source`; the loader's own batch size counts."""
        return len(self.loader)

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """See `Source`; steps are asked for in rising order."""
        if step < self._next:
            self.__post_init__()
        while True:
            item = next(self._stream, None)
            if item is None:
                self._stream = iter(self.loader)
                item = next(self._stream, None)
                if item is None:
                    raise InputError("x", "a DataLoader without batches", "at least one batch")
            self._next += 1
            if self._next > step:
                return self._batch(item)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `Source`."""
        for item in self.loader:
            yield self._batch(item)

    def _batch(self, item: Any) -> Batch:
        x, y = item, None
        if isinstance(item, list | tuple) and not isinstance(item, PackedSequence):
            if len(item) not in (1, 2, 3):
                raise InputError("x", f"a loader that yields {len(item)} things", "x, (x, y) or (x, y, lengths)")
            x, y = item[0], item[1] if len(item) > 1 else None
            x = (x, item[2]) if len(item) == 3 else x
        source = as_source(x, y, self.model, ignore_index=self.ignore_index)
        assert isinstance(source, Padded)
        return next(source.in_order(len(source.x)))


def as_source(
    x: Any, y: Any, model: SequenceModel, *, mask: Any = None, window: int = 256, ignore_index: int = -100
) -> "Padded | LongText | Loader":
    """Check and normalise. See the module docstring for the forms of x, `targets.py` for those of y.

    Raises:
        InputError: names the argument, what came and what was expected.
    """
    if not isinstance(window, int) or window < 1:
        raise InputError("window", repr(window), "an integer >= 1")
    if isinstance(x, DataLoader):
        if y is not None or mask is not None:
            raise InputError("y", "targets beside a DataLoader", "a loader that yields (x, y)")
        return Loader(x, model, ignore_index)
    if isinstance(x, Dataset):
        if y is not None:
            raise InputError("y", "targets beside a Dataset", "a dataset that yields (x, y)")
        x, y = _collect(x)
    x, lengths = _pad(x)
    x = _check_values(x, model)
    if model.task == "next" and model.input_kind == "symbols" and x.ndim == 1 and lengths is None:
        if y is not None or mask is not None:
            raise InputError(
                "y" if y is not None else "mask",
                "given",
                "None for one long text: the next symbol is the target",
            )
        return as_text(x, window)
    x, lengths = _check_shape(x, lengths, model)
    valid = torch.arange(x.shape[1])[None] < lengths[:, None]  # (N, T)
    x = x * (valid if x.ndim == 2 else valid.unsqueeze(-1)).to(x.dtype)  # nothing but zeros after a sequence's end
    x, lengths, y, mask = check_targets(x, lengths, y, mask, model, ignore_index)
    return Padded(x, lengths, y, mask)


def _collect(data: Dataset[Any]) -> tuple[list[Tensor], Any]:
    if not hasattr(data, "__len__"):
        raise InputError(
            "x", "an iterable Dataset without a length", "a Dataset with __len__, or a DataLoader around it"
        )
    items = [data[i] for i in range(len(data))]
    if not items:
        raise InputError("x", "an empty Dataset", "at least one sequence")
    if not isinstance(items[0], list | tuple):
        return [torch.as_tensor(i) for i in items], None
    xs = [torch.as_tensor(i[0])[: int(i[2])] if len(i) == 3 else torch.as_tensor(i[0]) for i in items]
    return xs, [torch.as_tensor(i[1]) for i in items] if len(items[0]) > 1 else None


def _pad(x: Any) -> tuple[Tensor, Tensor | None]:
    """A tensor, and lengths where they are known."""
    if isinstance(x, PackedSequence):  # a named tuple: asked before tuple
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        return padded, lengths
    if isinstance(x, tuple):
        if len(x) != 2:
            raise InputError("x", f"a tuple of {len(x)}", "(x, lengths)")
        return _tensor(x[0], "x"), _lengths(x[1])
    if isinstance(x, list):
        if not x:
            raise InputError("x", "an empty list", "at least one sequence")
        if all(isinstance(one, int | float) for one in x):
            return _tensor(x, "x"), None
        parts = [_tensor(one, f"x[{i}]") for i, one in enumerate(x)]
        for i, one in enumerate(parts):
            if one.ndim not in (1, 2) or one.ndim != parts[0].ndim or one.shape[1:] != parts[0].shape[1:]:
                raise InputError(
                    f"x[{i}]",
                    f"shape {tuple(one.shape)}",
                    f"(T_i,) or (T_i, D) like x[0], {tuple(parts[0].shape)}",
                )
            if len(one) == 0:
                raise InputError(f"x[{i}]", "an empty sequence", "T_i >= 1")
        lengths = torch.tensor([len(one) for one in parts])
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), lengths
    return _tensor(x, "x"), None


def _tensor(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, np.ndarray | Sequence):
        try:
            return torch.as_tensor(np.asarray(x))
        except (TypeError, ValueError) as error:
            raise InputError(name, f"{type(x).__name__} that is not numeric", f"numbers ({error})") from error
    raise InputError(
        name, type(x).__name__, "a tensor, array, list, (x, lengths), PackedSequence, Dataset or DataLoader"
    )


def _lengths(lengths: Any) -> Tensor:
    out = torch.as_tensor(lengths).cpu()
    if out.is_floating_point() or out.dtype == torch.bool:
        raise InputError("lengths", f"dtype {out.dtype}", "integers: steps, not fractions")
    return out.to(torch.int64)


def _check_values(x: Tensor, model: SequenceModel) -> Tensor:
    if x.numel() == 0:
        raise InputError("x", f"shape {tuple(x.shape)}", "at least one sequence of at least one step")
    if model.input_kind == "symbols":
        if x.is_floating_point() or x.dtype == torch.bool or x.is_complex():
            raise InputError("x", f"dtype {x.dtype}", "integer symbols (this model has input_kind='symbols')")
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= model.input_size:
            raise InputError("x", f"symbols in {low}..{high}", f"symbols in 0..{model.input_size - 1}")
        return x.to(torch.int64)
    x = x.to(next(model.parameters()).dtype) if not x.is_complex() else x
    if x.is_complex():
        raise InputError("x", f"dtype {x.dtype}", "real features")
    if not torch.isfinite(x).all():
        at = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise InputError("x", f"NaN or infinity at {at}", "finite numbers")
    return x


def _check_shape(x: Tensor, lengths: Tensor | None, model: SequenceModel) -> tuple[Tensor, Tensor]:
    rank, axes = (2, "(N, T)") if model.input_kind == "symbols" else (3, f"(N, T, {model.input_size})")
    if rank == 3 and model.input_size == 1 and x.ndim == 2 and x.shape[1] != 1:
        x = x.unsqueeze(-1)  # (N, T) of a single feature
    if x.ndim == rank - 1:
        x = x.unsqueeze(0)  # one unbatched sequence
    if x.ndim != rank:
        raise InputError("x", f"shape {tuple(x.shape)}", f"{axes}: sequences, steps{', features' if rank == 3 else ''}")
    if rank == 3 and x.shape[2] != model.input_size:
        hint = "; the axes look transposed, try x.transpose(1, 2)" if x.shape[1] == model.input_size else ""
        raise InputError("x", f"shape {tuple(x.shape)}", axes + hint)
    n, t = x.shape[:2]
    if lengths is None:
        return x, torch.full((n,), t)
    if lengths.shape != (n,):
        raise InputError("lengths", f"shape {tuple(lengths.shape)}", f"({n},), one a sequence")
    if int(lengths.min()) < 1 or int(lengths.max()) > t:
        raise InputError("lengths", f"values in {int(lengths.min())}..{int(lengths.max())}", f"values in 1..{t}")
    return x, lengths
