"""`Ranks`: the processes of a run of `fit`, in a grid of shares of the batch by spans of time.

Every rank draws the same batches, by number. Row i of the grid takes the i-th share of the sequences, column j the j-th
span of their time steps. One sum over all ranks at the end of an update makes the gradient of the whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.distributed.cuts import spans_of
from hbll_seq.distributed.group import Group, Traffic
from hbll_seq.distributed.shards import TimeShards, spread
from hbll_seq.distributed.share import SHARE, Share
from hbll_seq.errors import LostRankError, warn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

TRIED = 20  # updates after which `advise` looks back
LONG = 1024  # time steps of a span below which nothing is advised
WORSE = 1.2  # what a time step costs more in micro-batches than in the whole batch


class Ranks:
    """The grid of a run.

    Args:
        data: shares of the batch.
        time: spans of time.
        world, by_data, by_time: process groups of all ranks, of those that differ in the share, and in the span.
        made: process groups to destroy at the end.
        micro_batches: see `time_sharded`.

    Attributes:
        world, by_data, by_time: the groups.
        chief: whether this rank shows progress and writes checkpoints.
    """

    def __init__(
        self, world: Group, by_data: Group, by_time: Group, made: Sequence[Any] = (), micro_batches: int | None = None
    ) -> None:
        self.world, self.by_data, self.by_time = world, by_data, by_time
        self.chief = world.rank == 0
        self._made, self._parts = list(made), micro_batches
        self._seen, self._again = 0, 0.0

    def __enter__(self) -> "Ranks":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, but for a lost rank: its groups may not answer."""
        if kind is None or not issubclass(kind, LostRankError):
            self.close()

    def close(self) -> None:
        """Destroy the process groups that were made for this run; those of the user stay.

        A group of all processes that was made here stays too: a second run in the same process needs it.
        """
        while self._made:
            dist.destroy_process_group(self._made.pop())

    def traffic(self) -> Traffic:
        """Return what this rank has exchanged in all groups."""
        total = Traffic()
        for one in {id(g): g for g in (self.world, self.by_data, self.by_time)}.values():
            total = total.plus(one.traffic)
        return total

    def advise(self, sent: Traffic, rows: int, steps: int) -> None:
        """Warn once, on the first rank, if most spans run twice where a pipeline would not; called after every update.

        Args:
            sent: of the update.
            rows, steps: B and T of a batch.
        """
        self._seen += 1
        self._again += sent.again / max(sent.passes, 1)
        if self._seen != TRIED or not self.chief or self._parts is not None:
            return
        again, parts, count = self._again / TRIED, min(rows, 2 * self.by_time.size), self.by_time.size
        # the first rank runs no states again, only messages; others run states again beside
        if parts > 1 and steps >= LONG * count and 1 + 2 * again > WORSE * (parts + count - 1) / parts:
            warn(
                f"parallel: the first {TRIED} updates ran {again:.0%} of this rank's spans again, because states and "
                f'messages do not fade within them; {{"time": {count}, "micro_batches": {parts}}} would run each once'
            )

    def share(
        self, batch: Batch, unit: int, *, told: bool = True, gathers: bool = False, ends: bool = False
    ) -> tuple[Share, TimeShards | None]:  # fmt: skip
        """Return this rank's part of a batch, and the spans of time if there are several.

        A batch with fewer units of time than ranks is not cut in time: all ranks share its sequences.

        Args:
            batch: the whole batch.
            unit: spans are cut at multiples of so many time steps.
            told: whether the model's layers get the sequences' lengths; else they run over padding too, but for what
                the module packs.
            gathers, ends: see `Share`; targets are then not cut in time.
        """
        if batch.whole is not None:
            count, steps = batch.whole
            spans, among = self._cut(steps, unit)
            state = None if batch.state is None else [one[_mine(among, count)] for one in batch.state]
            share = Share(batch._replace(state=state, whole=None), count, steps, among)
            if spans is None:
                return share, None
            share.time = self.by_time
            return share, TimeShards(self.by_time, spans, None, None, micro_batches=self._parts)
        count, steps = batch.x.shape[:2] if batch.x.ndim > 1 else (len(batch.x), 1)
        spans, among = self._cut(steps, unit)
        mine = _rows(batch, _mine(among, count))
        share = Share(mine, count, steps, among)
        if spans is None:
            return share, None
        ragged = told and int(batch.lengths.min()) < steps
        lengths = mine.lengths if ragged else None
        shards = TimeShards(self.by_time, spans, lengths, None, mine.lengths, self._parts)
        assert shards.first is not None and shards.stop is not None
        share.time, share.gathers, share.ends, share.lengths = self.by_time, gathers, ends, mine.lengths
        share.batch = _span(mine, shards.first, shards.stop, steps, targets=not share.same)
        return share, shards

    def cut(self, count: int, steps: int, unit: int) -> tuple[slice, int, int]:
        """Return this rank's share of `count` sequences, its first time step, and the one after its last."""
        spans, among = self._cut(steps, unit)
        first, stop = 0, steps
        if spans is not None:
            first = sum(spans[: self.by_time.rank])
            stop = first + spans[self.by_time.rank]
        return _mine(among, count), first, stop

    def _cut(self, steps: int, unit: int) -> tuple[list[int] | None, Group]:
        """Return the spans of so many time steps, None if they stay whole, and the ranks that share the sequences."""
        if self.by_time.size == 1:
            return None, self.by_data
        spans = spans_of(steps, unit, self.by_time.size)
        return spans, self.world if spans is None else self.by_data

    @contextmanager
    def entered(self, share: Share, shards: TimeShards | None) -> Iterator[None]:
        """Run an update of a share."""
        token = SHARE.set(share)
        try:
            if shards is None:
                yield
            else:
                with spread(shards):
                    yield
        finally:
            SHARE.reset(token)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank."""
        return float(self.world.sum(torch.tensor([float(flag)]))) > 0

    def added(self, numbers: list[float]) -> list[float]:
        """Return the sums of numbers over all ranks."""
        found: list[float] = self.world.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return found

    def of_the_first(self, figures: dict[str, float]) -> dict[str, float]:
        """Return the first rank's figures; all ranks have figures of the same names."""
        return dict(zip(figures, self.added([v if self.chief else 0.0 for v in figures.values()]), strict=True))

    @torch.no_grad()
    def average_running(self, model: nn.Module) -> None:
        """Give all ranks the mean of the running means and variances of normalisations."""
        norms = [one for one in model.modules() if isinstance(one, NORMS) and one.running_mean is not None]
        if not norms or self.world.size == 1:
            return
        held = [value for one in norms for value in (one.running_mean, one.running_var) if value is not None]
        total = self.world.sum(torch.cat([one.double().flatten() for one in held])) / self.world.size
        for one, value in zip(held, total.split([one.numel() for one in held]), strict=True):
            one.copy_(value.view_as(one))

    @torch.no_grad()
    def same_weights(self, weights: list[Tensor]) -> None:
        """Give all ranks the weights of the first."""
        for one in weights:
            value = one.detach().clone() if self.chief else torch.zeros_like(one)
            one.copy_(self.world.sum(value))


def _mine(group: Group, count: int, rank: int | None = None) -> slice:
    """Return a rank's share of `count` sequences, this one's by default; it may be empty, but not the first rank's."""
    i, n = group.rank if rank is None else rank, group.size
    return slice(-(-count * i // n), -(-count * (i + 1) // n))


def all_rows(state: list[Tensor] | None, count: int, among: Group) -> list[Tensor] | None:
    """Return the states of all `count` sequences from those of the ranks that share them."""
    if state is None or among.size == 1:
        return state
    flat = torch.cat(state, 1)
    found = among.gather(torch.nn.functional.pad(flat, (0, 0, 0, -(-count // among.size) - len(flat))))
    shares = [_mine(among, count, i) for i in range(among.size)]
    parts = [one[: share.stop - share.start] for one, share in zip(found, shares, strict=True)]
    return list(torch.cat(parts).split([one.shape[1] for one in state], 1))


def _rows(batch: Batch, rows: slice) -> Batch:
    def part(one: Tensor | None) -> Tensor | None:
        return None if one is None else one[rows]

    state = None if batch.state is None else [one[rows] for one in batch.state]
    return Batch(
        batch.x[rows], batch.lengths[rows], batch.y[rows], part(batch.mask), state, part(batch.target_lengths),
        part(batch.weight),
    )  # fmt: skip


def along_time(batch: Batch, steps: int) -> bool:
    """Return whether a batch has a target for each of `steps` time steps, and not one for a whole sequence."""
    return batch.y.ndim > 1 and batch.y.shape[1] == steps and (batch.mask is None or batch.mask.ndim > 1)


def _span(batch: Batch, first: int, stop: int, steps: int, *, targets: bool) -> Batch:
    """Return the time steps first..stop of a batch; targets of whole sequences stay as they are, or all of them."""
    along = targets and along_time(batch, steps)
    y = batch.y[:, first:stop] if along else batch.y
    mask = batch.mask[:, first:stop] if batch.mask is not None and along else batch.mask
    lengths = (batch.lengths - first).clamp(0, stop - first)
    return batch._replace(x=batch.x[:, first:stop], lengths=lengths, y=y, mask=mask)
