"""`time_sharded`: every rank holds a contiguous span of all sequences, and recurrent layers run over all spans.

The loss convention is that of `DistributedDataParallel`: the loss of the whole is the mean over ranks of the ranks'
losses, and gradients of parameters are averaged over ranks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from hbll_seq.cells import Cell
from hbll_seq.data.scalars import integer, positive
from hbll_seq.distributed.cuts import even_spans
from hbll_seq.distributed.group import Chain, Group, as_group
from hbll_seq.distributed.layer import run_span, zero_start
from hbll_seq.distributed.outputs import at_steps, gathered
from hbll_seq.distributed.pipeline import run_pipeline
from hbll_seq.distributed.spans import Span
from hbll_seq.engine.execution import Execute
from hbll_seq.errors import InputError, warn
from hbll_seq.nn.projected import Projected
from hbll_seq.nn.stack import SPREAD, reverse, run_cell


class TimeShards:
    """The spans of a group of ranks; what `time_sharded` returns.

    Args:
        group: the ranks, in the order of time.
        spans: time steps of every rank's span, or None if the layers' inputs tell.
        lengths: `(B,)` time steps of the whole sequences, or None for all.
        tolerance: see `time_sharded`.
        packed: `(B,)` time steps of the whole sequences for layers that get them packed, while the others run over
            padding; None for `lengths`.
        micro_batches: see `time_sharded`.

    Attributes:
        group: the ranks, with what was exchanged (`group.traffic`).
        first, stop: first time step of this rank's span, and the one after its last; None if not known.
        discount: `(B, 1)` factor on the messages that enter this span from the next one, or None for 1.
    """

    def __init__(
        self, group: Group, spans: Sequence[int] | None, lengths: Tensor | None, tolerance: float | None,
        packed: Tensor | None = None, micro_batches: int | None = None,
    ) -> None:  # fmt: skip
        self.group, self.lengths, self.tolerance, self.micro_batches = group, lengths, tolerance, micro_batches
        self._packed = lengths if packed is None else packed
        self.spans = None if spans is None else list(spans)
        self.discount: Tensor | None = None
        self.first = self.stop = None
        if self.spans is not None:
            self.first = sum(self.spans[: group.rank])
            self.stop = self.first + self.spans[group.rank]

    def take(self, x: Tensor, dim: int = 1) -> Tensor:
        """Return this rank's span of a tensor that holds all time steps along `dim`.

        Raises:
            InputError: `steps` or `spans` were not given, or x has another number of time steps.
        """
        first, stop, steps = self._known()
        if x.ndim <= dim or x.shape[dim] != steps:
            raise InputError("x", f"shape {tuple(x.shape)}", f"{steps} time steps along axis {dim}")
        return x.narrow(dim, first, stop - first)

    def mean(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the mean over all ranks of values of this rank's targets, the same on every rank.

        Its gradient is this rank's part. One collective, of two numbers.

        Args:
            values: one a target, such as a loss with `reduction="none"`.
            mask: bool, True where a target counts; None for all. It has the shape of `values`.
        """
        if mask is not None:
            values = torch.where(mask, values, values.new_zeros(()))
        own, count = values.sum(), float(values.numel() if mask is None else mask.sum())
        total = self.group.sum(torch.stack([own.detach().double(), own.new_tensor(count).double()]))
        size = float(total[1].clamp(min=1))
        scaled = own * (self.group.size / size)
        return scaled + (total[0] / size - scaled.detach()).to(scaled)

    def at_ends(self, out: Tensor) -> Tensor:
        """Return the outputs `(B, d)` at every sequence's last time step, on every rank.

        Args:
            out: `(B, T, d)` outputs of this rank's span.
        """
        first, _, steps = self._known()
        lengths = torch.full((len(out),), steps) if self.lengths is None else self.lengths
        return at_steps(self.group, out, lengths - 1 - first)

    def at_start(self, out: Tensor) -> Tensor:
        """Return the outputs `(B, d)` at the first time step of all, on every rank; see `at_ends`."""
        first, _, _ = self._known()
        return at_steps(self.group, out, torch.full((len(out),), -first))

    def whole(self, out: Tensor) -> Tensor:
        """Return the outputs `(B, T, d)` of all spans, on every rank, for a loss that needs them all, such as CTC.

        Every rank must then compute the same loss from them. All outputs are sent: their number grows with T.
        """
        self._known()
        assert self.spans is not None
        return gathered(self.group, out, self.spans)

    def pack(self, x: Tensor) -> PackedSequence:
        """Return this rank's span `(B, T_r, ...)` of unequal sequences packed, for layers that run each to its own end.

        A sequence that ended before the span has one time step in it, of which layers make zeros.

        Raises:
            InputError: `lengths` were not given, or x has other time steps than the span.
        """
        counts = self._ended(len(x)).clamp(min=1)
        self.counts(x)  # of the whole sequences the first time steps would be taken for the span
        return pack_padded_sequence(x, counts, batch_first=True, enforce_sorted=False)

    def within(self, packed: Tensor) -> Tensor:
        """Return how many time steps of each sequence count in this span, from the lengths `(B,)` of a packed input.

        Raises:
            InputError: a layer got other sequences, or `lengths` were not given.
        """
        if self.group.size == 1:
            return packed
        counts = self._ended(len(packed))
        if not torch.equal(counts.clamp(min=1), packed):
            came = f"packed lengths {packed.tolist()[:8]} on rank {self.group.rank}"
            raise InputError("input", came, f"{counts.clamp(min=1).tolist()[:8]}, as `pack` makes of this rank's span")
        return counts

    def _ended(self, rows: int) -> Tensor:
        if self._packed is None:
            came = "a PackedSequence in time_sharded without lengths"
            raise InputError("input", came, "time_sharded(steps=..., lengths=...), and `pack` of this rank's span")
        first, stop, _ = self._known()
        if len(self._packed) != rows:
            raise InputError("input", f"{rows} sequences", f"{len(self._packed)}, one for each of the lengths")
        return (self._packed - first).clamp(0, stop - first)

    def _known(self) -> tuple[int, int, int]:
        if self.first is None or self.stop is None or self.spans is None:
            raise InputError("steps", "None, and no spans", "time_sharded(group, steps=...), for calls that need them")
        return self.first, self.stop, sum(self.spans)

    def counts(self, x: Tensor) -> Tensor | None:
        """Return how many time steps of each sequence count in this span's input `(B, T, D)`; None for all."""
        if self.spans is not None and x.shape[1] != self.spans[self.group.rank]:
            came = f"{x.shape[1]} time steps on rank {self.group.rank}"
            raise InputError("input", came, f"its span, {self.spans[self.group.rank]}")
        if self.lengths is None:
            return None
        first, stop, _ = self._known()
        if len(self.lengths) != len(x):
            raise InputError("lengths", f"{len(self.lengths)} for {len(x)} sequences", "one a sequence")
        return (self.lengths - first).clamp(0, stop - first)

    def __call__(
        self, number: int, cell: Cell | Projected, x: Tensor, start: Tensor | None, lengths: Tensor | None,
        execute: Execute, /, *, backward: bool, end: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Run one cell, see `nn.stack.run_cell`; `lengths` are those within the span."""
        counts = self.counts(x) if lengths is None else lengths
        if self.group.size == 1:
            whole = counts is None or int(counts.min()) == x.shape[1]
            return run_cell(number, cell, x, start, None if whole else counts, execute, backward=backward, end=end)
        start = zero_start(cell, len(x), x) if start is None else start
        if backward:
            x = reverse(x, counts)
        span, chain = Span(number, cell, x, counts, execute), Chain(self.group, backward)
        last: Tensor | None
        if self.micro_batches is None:
            outputs, last = run_span(chain, span, start, self.discount, self.tolerance)
        else:
            outputs, last = run_pipeline(chain, span, start, self.discount, self.micro_batches, end)
        return (reverse(outputs, counts) if backward else outputs), last


@contextmanager
def time_sharded(
    group: Any = None, *, steps: int | None = None, spans: Sequence[int] | None = None, lengths: Any = None,
    tolerance: float | None = None, micro_batches: int | None = None,
) -> Iterator[TimeShards]:  # fmt: skip
    """Run the layers of `hbll_seq.nn` over sequences whose time steps are spread over ranks, in any loop.

    Inside, every layer takes this rank's span of its input, `(B, T_r, D)` or in the layer's layout, and returns this
    span's outputs, and the last states of the whole sequences on every rank. A start `hx` is the same on all ranks. The
    backward pass may be outside. All ranks must make the same calls in the same order, backward too.

    Args:
        group: a process group, or a one-dimensional `DeviceMesh`; None for all processes. Ranks are in the order of
            time.
        steps: time steps of the whole sequences, cut into spans of nearly equal size.
        spans: time steps of every rank's span, in place of `steps`. Without either the inputs tell.
        lengths: `(B,)` time steps of every whole sequence, on all ranks the same; None for all. Needs steps or spans.
        tolerance: largest mean square of the gap between a span's start and the end of the span before it, relative to
            that of the states, and likewise for messages. None: what rounding leaves, 1e-11 in float32 and 1e-22 in
            float64, and not less than what a layer's own engine leaves inside spans.
        micro_batches: None lets all spans run at once, and again where a guessed start was wrong. With a number the
            batch is cut into so many parts that pass through the ranks one after the other, each span once
            (docs/howto/distributed.md#memory-that-does-not-fade).

    Yields:
        The spans: `take`, `mean`, `at_ends`, `whole`, `pack`, and the traffic.

    Raises:
        InputError: no process group, or arguments that exclude each other.
        LostRankError: from a layer's call, or its backward pass: another rank failed or did not answer.
    """
    if micro_batches is not None:
        micro_batches = integer("micro_batches", micro_batches)
    known = _checked(group, steps, spans, lengths)
    shards = TimeShards(Group(as_group(group)), *known, tolerance, micro_batches=micro_batches)
    if tolerance is not None:
        positive("tolerance", tolerance, ", or None")
    watch = torch.nn.modules.module.register_module_forward_pre_hook(_warn_of_others)
    try:
        with spread(shards):
            yield shards
    finally:
        watch.remove()


def _warn_of_others(module: nn.Module, _: Any) -> None:
    """Warn of a recurrent layer of PyTorch's, which knows nothing of other spans."""
    if type(module) in (nn.GRU, nn.LSTM, nn.RNN):
        warn(
            f"{type(module).__name__} of torch.nn inside time_sharded starts anew in this rank's span: model = "
            "hs.convert(model), or a layer of hbll_seq.nn, runs over all spans",
            UserWarning,
        )


@contextmanager
def spread(shards: TimeShards) -> Iterator[None]:
    """Run layers over the spans of `shards` for a while."""
    token = SPREAD.set(shards)
    try:
        yield
    finally:
        SPREAD.reset(token)


def _checked(group: Any, steps: Any, spans: Any, lengths: Any) -> tuple[list[int] | None, Tensor | None]:
    size = Group(as_group(group)).size
    if steps is not None and spans is not None:
        raise InputError("spans", "given beside steps", "one of the two")
    if steps is not None:
        spans = even_spans(integer("steps", steps), size)
    elif spans is not None:
        spans = [integer("spans", one) for one in spans]
        if len(spans) != size:
            raise InputError("spans", f"{len(spans)} for {size} ranks", "one a rank")
    if lengths is None:
        return spans, None
    if spans is None:
        raise InputError("lengths", "given without steps", "steps= or spans= beside them")
    lengths = torch.as_tensor(lengths).cpu()
    whole = lengths.ndim == 1 and len(lengths) and lengths.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    if not whole or int(lengths.min()) < 1 or int(lengths.max()) > sum(spans):
        raise InputError("lengths", f"{lengths.tolist()}"[:80], f"(B,) integers in 1..{sum(spans)}")
    return spans, lengths.long()


def current() -> TimeShards | None:
    """Return the spans of the enclosing `time_sharded`, or None."""
    if torch.compiler.is_exporting():  # a program of one process, which cannot hold a lookup of context
        return None
    found = SPREAD.get()
    return found if isinstance(found, TimeShards) else None


def initialised() -> bool:
    """Return whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()
