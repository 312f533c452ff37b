"""Edit distance and error rates of transcripts: errors per label, or per word, of the reference.

The edit distance of two sequences is the least number of substitutions, deletions and insertions that turn the first
into the second. The error rate is the sum of the distances over the sum of the references' lengths: the character (or
label) error rate, or the word error rate.
"""

from collections.abc import Iterable, Sequence, Sized
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from hbll_seq.audio.backend import torchaudio
from hbll_seq.data.scalars import choice
from hbll_seq.data.tensors import as_tensor
from hbll_seq.errors import InputError

Unit = Literal["label", "word"]
TRANSCRIPT = 'a string or a sequence of labels; strings for unit="word"'


class ErrorRate(NamedTuple):
    """The errors of hypotheses against references.

    Attributes:
        rate: errors per label or word of the references; above 1 where much is inserted.
        substitutions: labels or words of the references that were replaced by others.
        deletions: those that are missing in the hypotheses.
        insertions: labels or words of the hypotheses too many.
        total: labels or words in the references.
    """

    rate: float
    substitutions: int
    deletions: int
    insertions: int
    total: int


def edit_distance(reference: Any, hypothesis: Any, *, unit: Unit = "label") -> int:
    """Return the edit distance of two transcripts, by `torchaudio.functional.edit_distance`.

    Args:
        reference: a string, or a sequence or 1-D tensor of labels of any kind.
        hypothesis: likewise.
        unit: "label" compares characters of strings and items of sequences; "word" words of strings.

    Raises:
        InputError: neither strings nor sequences, or words of something else than strings.
    """
    unit = _unit(unit)
    pair = _items(reference, "reference", unit), _items(hypothesis, "hypothesis", unit)
    return int(torchaudio().functional.edit_distance(*pair))


def error_rate(references: Sequence[Any], hypotheses: Sequence[Any], *, unit: Unit = "label") -> ErrorRate:
    """Return the error rate of many transcripts, and how many errors of each kind there are.

    Several alignments may have the same, least number of errors; the one with the fewest deletions and insertions
    counts. torchaudio's edit distance knows only the number of errors, which is the same (a test compares them).

    Args:
        references: true transcripts, as for `edit_distance`. Single ones may be empty, not all.
        hypotheses: as many transcripts to judge.
        unit: see `edit_distance`.

    Raises:
        InputError: as `edit_distance` (names the transcript), unequal numbers of them, or nothing in the references.
    """
    unit = _unit(unit)
    given = _transcripts(references, "references", unit), _transcripts(hypotheses, "hypotheses", unit)
    if len(given[0]) != len(given[1]):
        raise InputError("hypotheses", f"{len(given[1])} transcripts", f"{len(given[0])}, one for each reference")
    total = sum(map(len, given[0]))
    if not total:
        raise InputError("references", f"none with a {unit} in it", f"at least one {unit}")
    kinds = [_kinds(one, other) for one, other in zip(*given, strict=True)]
    substitutions, deletions, insertions = (sum(kind[i] for kind in kinds) for i in range(3))
    return ErrorRate((substitutions + deletions + insertions) / total, substitutions, deletions, insertions, total)


def _kinds(reference: list[Any], hypothesis: list[Any]) -> tuple[int, int, int]:
    """Return substitutions, deletions and insertions of the best alignment.

    Costs of prefixes, a row for each label of the reference: `step` for each error, and 1 more for a deletion or
    insertion, which `step` exceeds in sum. The least cost C so has the least number of errors, C // step, and among
    those the fewest deletions and insertions, C % step = D + I. Their difference D - I is that of the lengths.
    """
    n, m = len(reference), len(hypothesis)
    step = n + m + 1
    names: dict[Any, int] = {}
    first, second = (np.array([names.setdefault(one, len(names)) for one in row]) for row in (reference, hypothesis))
    alone = np.arange(m + 1) * (step + 1)  # the cost of as many insertions
    row = alone
    for label in first:
        below = row + (step + 1)
        below[1:] = np.minimum(below[1:], row[:-1] + np.where(second == label, 0, step))
        row = np.minimum.accumulate(below - alone) + alone  # then insertions, from the cheapest place before
    errors, moves = divmod(int(row[-1]), step)
    deletions = (moves + n - m) // 2
    return errors - moves, deletions, moves - deletions


def _unit(unit: Any) -> Unit:
    return "word" if choice("unit", unit, ("label", "word")) == "word" else "label"


def _transcripts(given: Any, name: str, unit: Unit) -> list[list[Any]]:
    if isinstance(given, Tensor):
        given = as_tensor(given, name)
        if given.ndim != 2:
            raise InputError(name, f"a tensor of shape {tuple(given.shape)}", "a list of transcripts")
    # a DataLoader would draw from the global random state
    known = isinstance(given, Iterable) and isinstance(given, Sized) and not isinstance(given, DataLoader)
    if not known or isinstance(given, str | bytes | bytearray | dict | set):
        raise InputError(name, f"one {type(given).__name__}", "a list of transcripts")
    return [_items(one, f"{name}[{i}]", unit) for i, one in enumerate(given)]


def _items(given: Any, name: str, unit: Unit) -> list[Any]:
    """Return the labels or words of a transcript, hashable."""
    if isinstance(given, str):
        return given.split() if unit == "word" else list(given)
    if unit == "word":
        raise InputError(name, type(given).__name__, TRANSCRIPT)
    if isinstance(given, Tensor | np.ndarray):
        given = as_tensor(given, name) if isinstance(given, Tensor | np.ma.MaskedArray) else given
        if given.ndim != 1:
            raise InputError(name, f"shape {tuple(given.shape)}", TRANSCRIPT)
        return list(given.tolist())
    if not isinstance(given, Sequence):
        raise InputError(name, type(given).__name__, TRANSCRIPT)
    items = [as_tensor(one, name).item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in given]
    try:
        hash(tuple(items))
    except TypeError as error:
        raise InputError(name, f"labels that are not hashable ({error})", TRANSCRIPT) from error
    if any(isinstance(one, Tensor) for one in items):
        raise InputError(name, "tensors of several numbers as labels", TRANSCRIPT)
    return items
