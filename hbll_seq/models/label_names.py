"""Names of labels: from strings to class numbers and back, and recordings of a folder with the names of its labels.

A model of classes keeps the names of its labels in `Model.label_names`; name i is that of class i. `fit` finds them
where targets are strings, `save` and `load` carry them, `predict(labels=True)` answers with them. A module of the
user's has them in a plain attribute of the same name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hbll_seq.audio.folder import Recordings
from hbll_seq.errors import InputError


class Trained(Protocol):
    """What is read of a model that `fit` trains."""

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


def names_of(module: nn.Module) -> list[str] | None:
    """Return the names that a module has, or None, also where it has something else of that name.

    Raises:
        InputError: a name twice, or another number of names than the model has classes.
    """
    names = getattr(module, "label_names", None)
    if not isinstance(names, list | tuple) or not names or not all(isinstance(one, str) for one in names):
        return None
    return check_names(names, "model.label_names", classes_of(module))


def classes_of(module: nn.Module) -> int | None:
    """Return the classes of a model of this package; None of a module of the user's, where `output_size` may be any."""
    return getattr(module, "output_size", None) if hasattr(type(module), "_label_names") else None


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


def numbered(y: Any, model: nn.Module) -> Any:
    """Return class numbers for targets that are strings, by the names of a model; other targets as they are.

    Raises:
        InputError: strings for a model without names, or a string that is no name of the model's.
    """
    found = strings_in(y)
    if found is None:
        return y
    names = names_of(model)
    if names is None:
        raise InputError(
            "y", f"names such as {_first(found)!r} for a model without names",
            "numbers, or a model that `fit` trained on names, or with label_names set",
        )  # fmt: skip
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
def learned_names(model: Trained, x: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    """Give the model the names of its training targets, if it has none, for a run; yield x and y without recordings.

    Names are sorted, or those of the folder in its order. If the run refuses its arguments the model has its names of
    before. How many classes a module of the user's has is known when it has been called: see `check_count`.

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
    if found is None or names_of(model.inner) is not None:
        yield x, y
        return
    holder: Any = model.inner
    names = given or sorted(_names_in(found))
    check_count(names, classes_of(holder))
    had = hasattr(holder, "label_names")
    if had and holder.label_names is not None:
        raise InputError("model.label_names", f"{holder.label_names!r:.80}", "a list of names, strings, or None")
    holder.label_names = names
    try:
        yield x, y
    except InputError:
        holder.label_names = None
        if not had:
            del holder.label_names
        raise


def check_count(names: list[str] | None, classes: int | None) -> None:
    """Refuse names that are not as many as a model has classes; None is anything.

    Raises:
        InputError: another number.
    """
    if names is not None and classes is not None and len(names) != classes:
        came = f"{len(names)} different labels: {', '.join(map(repr, names[:8]))}"
        raise InputError("y", came, f"{classes}, as the model has classes; or model.label_names = [...]")


def _names_in(found: list[Any]) -> set[str]:
    """Return the different names of targets, one a sequence or rows of them."""
    alone = isinstance(found[0], str)
    for i, row in enumerate([found] if alone else found):
        for j, one in enumerate(row if isinstance(row, list | tuple) else [row]):
            if not isinstance(one, str):
                raise InputError(
                    f"y[{j if alone else i}]", f"{one!r:.80} among names", "a name, as the first target is"
                )
    return set(found) if alone else {one for row in found for one in row}


def as_names(scores: Tensor, names: list[str]) -> Any:
    """Return the names of the best classes of scores `(..., V)`, in nested lists.

    Raises:
        InputError: another number of names than V.
    """
    if scores.ndim == 0 or scores.shape[-1] != len(names):
        came = f"outputs of shape {tuple(scores.shape)} for a sequence"
        raise InputError("labels", f"True for {came}", f"{len(names)} scores, one for each of model.label_names")

    def named(value: Any) -> Any:
        return [named(one) for one in value] if isinstance(value, list) else names[value]

    return named(scores.argmax(-1).tolist())
