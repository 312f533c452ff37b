"""Streams in memory or in a mapped file for a run on several ranks: each reads and checks its own part alone."""

from dataclasses import replace
from typing import Any

from hbll_seq.data.batch import Batch
from hbll_seq.data.shared_streams import SharedStreams, shared
from hbll_seq.data.sources import Source
from hbll_seq.data.streams import Streams, as_streams
from hbll_seq.datasets.span_files import OpenSpan
from hbll_seq.distributed.ranks import Ranks
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.rules import Rule


def open_streams(
    x: Any, y: Any, model: Model, *, batch_size: int, mask: Any, window: int | None, ignore_index: int,
    ranks: Ranks | None,
) -> Streams:  # fmt: skip
    """Return the training streams; on several ranks nothing of them is read yet.

    Args:
        x: see `as_streams`; or an `OpenSpan`, whose window is a whole stream unless given.
        y: as x.
        model: the model that reads x and predicts y.
        batch_size: streams, or sequences side by side.
        mask: see `as_streams`.
        window: see `as_streams`.
        ignore_index: see `as_streams`.
        ranks: the processes of the run, or None for one.

    Raises:
        InputError: see `as_streams`.
    """
    found = as_streams(
        opened(x), opened(y), model, mask=mask, window=window, ignore_index=ignore_index, read=ranks is None
    )
    if isinstance(x, OpenSpan) and window is None:
        found = replace(found, window=found.length(batch_size))
    return found


def opened(value: Any) -> Any:
    """Return the whole mapped sequence of an `OpenSpan`, also inside a pair; any other value as it is."""
    if isinstance(value, OpenSpan):
        return value.whole
    if type(value) is tuple and any(isinstance(one, OpenSpan) for one in value):
        return tuple(opened(one) for one in value)
    return value


def refuse_open(*values: Any) -> None:
    """Refuse an `OpenSpan` in a run that does not read streams.

    Raises:
        InputError: there is one.
    """
    if any(opened(one) is not one for one in values):
        expected = "stateful=True: a mapped file is read in the order of time, with a carried state"
        raise InputError("x", "an OpenSpan without stateful=True", expected)


def share_streams(source: Streams, rule: Rule[Any], ranks: Ranks, batch_size: int) -> SharedStreams:
    """Return streams of which every rank reads its part, after each has read and checked it once.

    Raises:
        InputError: on every rank, if any of them found values that cannot be used, or if no target counts.
    """
    found = shared(source, lambda rows, steps: ranks.cut(rows, steps, rule.unit(steps, rows)))
    wrong: InputError | None = None
    targeted = False
    try:
        targeted = found.check(batch_size)
    except InputError as error:
        wrong = error
    if ranks.any(wrong is not None):
        raise wrong or InputError("x", "values on another rank that cannot be used", "those that its error names")
    if not ranks.any(targeted):
        which = "mask" if source.y is None else "y"
        raise InputError(which, "no step that counts", "at least one target that is not ignored or masked")
    return found


def counting(drawn: list[Batch], source: Source, ranks: Ranks | None) -> list[Batch]:
    """Return the batches in which a target counts, on whatever rank.

    It is tested on the CPU, without a wait for the device.
    """
    if ranks is None or not isinstance(source, SharedStreams):
        return [batch for batch in drawn if batch.targeted()]
    if source.y is None and source.mask is None:  # next-step prediction: all count
        return drawn
    return [batch for batch in drawn if ranks.any(batch.targeted())]
