"""Names of labels: from strings to class numbers and back, and recordings of a folder with the names of its labels.

A model of classes keeps the names of its labels in `Model.label_names`; name i is that of class i. `fit` finds them
where targets are strings, `save` and `load` carry them, `predict(labels=True)` answers with them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from hbll_seq.audio.folder import Recordings
from hbll_seq.errors import InputError


class Named(Protocol):
    """What is read of a model here."""

    label_names: list[str] | None
    output_size: int

    @property
    def takes_names(self) -> bool:
        """Whether targets may be names."""

    @property
    def inner(self) -> nn.Module:
        """The module that has the names."""


def check_names(names: Any, argument: str, count: int | None = None) -> list[str]:
    """Return names of labels as a list.

    Raises:
        InputError: no list of strings, a name twice, or another number of them than `count`.
    """
    if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) for one in names):
        raise InputError(argument, f"{names!r:.80}", "a list of names, strings")
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise InputError(argument, f"{twice!r} more than once", "different names")
    if count is not None and len(names) != count:
        raise InputError(argument, f"{len(names)} names", f"{count}, one a class")
    return [str(one) for one in names]


def unpacked(x: Any, y: Any) -> tuple[Any, Any]:
    """Return x and y; of the recordings of a folder the waves, and their labels by name or their transcripts.

    Raises:
        InputError: y beside recordings, which have their own.
    """
    if not isinstance(x, Recordings):
        return x, y
    if y is not None:
        raise InputError("y", "targets beside recordings", "None: recordings have their labels, or their waves as x")
    if x.labels is None:
        return x.waves, x.transcripts
    return x.waves, [x.names[i] for i in x.labels.tolist()]


def strings_in(y: Any) -> list[Any] | None:
    """Return targets as a list (of lists) of strings, or None where they are no strings."""
    if isinstance(y, str) or isinstance(y, Tensor):
        return None
    if hasattr(y, "to_numpy"):  # a column of a data frame
        y = y.to_numpy()
    if isinstance(y, np.ndarray):
        if y.dtype.kind not in "OUT" or not y.ndim:
            return None
        y = y.tolist()
    if not isinstance(y, list | tuple) or not len(y):
        return None
    if isinstance(y[0], str):
        return list(y)
    rows = [strings_in(one) for one in y]
    return None if rows[0] is None else [one if row is None else row for one, row in zip(y, rows, strict=True)]


def numbered(y: Any, model: Named) -> Any:
    """Return class numbers for targets that are strings, by the model's names; other targets as they are.

    Raises:
        InputError: strings for a model without names, or a string that is no name of the model's.
    """
    found = strings_in(y)
    if found is None:
        return y
    names = model.label_names
    if names is None:
        raise InputError("y", f"names such as {_first(found)!r} for a model without names", "numbers, or a model that "
                         "`fit` trained on names")  # fmt: skip
    places = {one: i for i, one in enumerate(names)}
    if isinstance(found[0], str):
        return _numbers(found, places, "y")
    return [_numbers(row, places, f"y[{i}]") for i, row in enumerate(found)]


def _first(found: list[Any]) -> str:
    return str(found[0] if isinstance(found[0], str) else found[0][0])


def _numbers(row: Any, places: dict[str, int], argument: str) -> Tensor:
    if not isinstance(row, list | tuple):
        raise InputError(argument, f"{type(row).__name__} among names", "names for all")
    for i, one in enumerate(row):
        if not isinstance(one, str) or one not in places:
            shown = ", ".join(map(repr, list(places)[:8])) + (", ..." if len(places) > 8 else "")
            raise InputError(f"{argument}[{i}]", repr(one), f"one of the model's label names: {shown}")
    return torch.tensor([places[one] for one in row], dtype=torch.int64)


@contextmanager
def learned_names(model: Named, x: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    """Give the model the names of its training targets, if it has none, for a run; yield x and y without recordings.

    Names are sorted, or those of the folder in its order. If the run refuses its arguments the model has its names of
    before.

    Args:
        model: what is trained, or a model around it.
        x: as for `fit`.
        y: as for `fit`.

    Raises:
        InputError: another number of names than the model has classes.
    """
    given = x.names if isinstance(x, Recordings) else None
    x, y = unpacked(x, y)
    found = strings_in(y) if model.takes_names else None
    holder = cast(Named, model.inner) if model.takes_names else model
    before = holder.label_names
    if found is not None and before is None:
        flat = found if isinstance(found[0], str) else [one for row in found for one in row]
        names = given or sorted({one for one in flat if isinstance(one, str)})
        if len(names) != holder.output_size:
            came = f"{len(names)} different labels: {', '.join(map(repr, names[:8]))}"
            raise InputError("y", came, f"{holder.output_size}, as the model has classes; or model.label_names = [...]")
        holder.label_names = names
    try:
        yield x, y
    except InputError:
        holder.label_names = before
        raise


def as_names(scores: Tensor, names: list[str]) -> Any:
    """Return the names of the best classes of scores `(..., V)`, in nested lists."""

    def named(value: Any) -> Any:
        return [named(one) for one in value] if isinstance(value, list) else names[value]

    return named(scores.argmax(-1).tolist())
