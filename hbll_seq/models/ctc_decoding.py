"""Decoding of CTC scores: the best path, a beam over prefixes, and the alignment of given labels.

A path names one symbol per time step: a label, or the blank (number 0). Its text drops repetitions, then blanks. The
probability of a text is the sum over all paths that have it. `best_path` takes the single most probable path. `beam`
searches for the most probable text: it extends prefixes step by step and adds up the paths of equal prefixes (Hannun et
al. 2014, arXiv:1408.2873). With a beam as wide as there are texts it is exact (a test compares all paths).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.data.tensors import as_tensor
from hbll_seq.errors import InputError

BLANK = 0
NEVER = -math.inf


def ctc_decode(scores: Tensor, lengths: Any = None, *, width: int | None = None) -> list[list[int]]:
    """Return the labels of every sequence of a batch, in a loop of your own.

    Args:
        scores: `(B, T, V)` logits or log-probabilities, the blank first (`nn.CTCLoss(blank=0)`).
        lengths: `(B,)` time steps that count; None: all.
        width: prefixes of a beam search; None: the best path, which is faster.

    Raises:
        InputError: other shapes, lengths out of range, or a width below 1.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 3 or not scores.is_floating_point():
        came = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError("scores", came, "float (B, T, V)")
    steps = [scores.shape[1]] * len(scores) if lengths is None else as_tensor(lengths, "lengths").tolist()
    if (
        not isinstance(steps, list)
        or len(steps) != len(scores)
        or any(n not in range(scores.shape[1] + 1) for n in steps)
    ):
        raise InputError("lengths", f"{steps}", f"{len(scores)} whole numbers from 0 to {scores.shape[1]}")
    rows = [row[: int(n)].detach() for row, n in zip(scores, steps, strict=True)]
    if width is None:
        return [[run.label for run in best_path(row)] for row in rows]
    width = integer("width", width)
    return [list(beam(row.log_softmax(-1), width)[0][0]) for row in rows]


class Run(NamedTuple):
    """A label on a path: the time steps `first` to `last` that name it."""

    label: int
    first: int
    last: int


def best_path(scores: Tensor) -> list[Run]:
    """Return the labels of the most probable path through scores `(T, V)`, with their time steps."""
    found: list[Run] = []
    before = BLANK
    for t, now in enumerate(scores.argmax(-1).tolist()):
        if now != BLANK and now == before:
            found[-1] = found[-1]._replace(last=t)
        elif now != BLANK:
            found.append(Run(now, t, t))
        before = now
    return found


def beam(log_probs: Tensor, width: int) -> list[tuple[tuple[int, ...], float]]:
    """Return the most probable texts and the logarithms of their probabilities, best first.

    Args:
        log_probs: `(T, V)` logarithms of the symbols' probabilities.
        width: prefixes that are kept after every time step; as many texts are returned at most.

    The probabilities are lower bounds: paths through prefixes that were dropped are missing.
    """
    # of every prefix: log-probability of its paths that end in a blank, and of those that end in its last label
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NEVER)}
    for row in log_probs.double().cpu().tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, label) in kept.items():
            either, last = _add(blank, label), prefix[-1] if prefix else BLANK
            _put(grown, prefix, either + row[BLANK], label + row[last] if prefix else NEVER)
            for symbol in range(1, len(row)):
                # after the same label only a blank between makes a second one
                _put(grown, (*prefix, symbol), NEVER, (blank if symbol == last else either) + row[symbol])
        best = sorted(grown.items(), key=lambda item: -_add(*item[1]))
        kept = dict(best[:width])
    return [(prefix, _add(*pair)) for prefix, pair in kept.items()]


def _add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))


def _put(
    grown: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], blank: float, label: float
) -> None:
    before = grown.get(prefix)
    grown[prefix] = (blank, label) if before is None else (_add(before[0], blank), _add(before[1], label))


def align(log_probs: Tensor, labels: list[int]) -> list[Run]:
    """Return the most probable path of a given text, label by label (Viterbi's algorithm).

    Args:
        log_probs: `(T, V)`.
        labels: the text; it must fit into T steps (`hbll_seq.models.torch_losses.needed`).
    """
    if not labels:
        return []
    symbols = np.full(2 * len(labels) + 1, BLANK)
    symbols[1::2] = labels
    rows = log_probs.double().cpu().numpy()[:, symbols]  # (T, S): blank, label, blank, ..., blank
    skips = np.zeros(len(symbols), bool)  # from a label to the next one, without the blank between
    skips[3::2] = symbols[3::2] != symbols[1:-2:2]
    best, came = np.full(len(symbols), NEVER), np.zeros(rows.shape, np.int64)
    best[:2] = rows[0, :2]
    for t in range(1, len(rows)):
        ways = np.full((3, len(symbols)), NEVER)
        ways[0], ways[1, 1:], ways[2, 2:] = best, best[:-1], np.where(skips[2:], best[:-2], NEVER)
        came[t] = ways.argmax(0)
        best = ways.max(0) + rows[t]
    at = len(symbols) - (1 if best[-1] > best[-2] else 2)
    places = np.empty(len(rows), np.int64)
    for t in range(len(rows) - 1, -1, -1):
        places[t] = at
        at -= came[t, at]
    steps = [np.flatnonzero(places == 2 * i + 1) for i in range(len(labels))]
    return [Run(label, int(where[0]), int(where[-1])) for label, where in zip(labels, steps, strict=True)]
