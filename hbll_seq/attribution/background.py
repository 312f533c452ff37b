"""Sequences whose inputs stand in for a withheld one: the mean of their inputs, and donors among them.

What a stand-in says is what the sequence is compared with. Of one sequence alone the mean input is what it says
throughout: a steady tone withheld against its own mean has lost nothing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.inputs import as_sequences
from hbll_seq.errors import InputError, warn
from hbll_seq.models.recurrent import SequenceModel

CHUNK = 1 << 16  # steps embedded at a time
ALONE = (
    "credit of one sequence without background: its inputs are withheld against their own mean, so what the sequence "
    "says throughout counts for nothing; pass background=, sequences of the kind the model was trained on"
)


class Background(NamedTuple):
    """Sequences, padded.

    Attributes:
        x: `(N, L)` symbols or `(N, L, D)` features.
        lengths: `(N,)` int64 on the CPU.
    """

    x: Tensor
    lengths: Tensor

    def cut(self, steps: int) -> "Background":
        """Return the windows of `steps` steps of a single long sequence; more than one sequence stay as they are."""
        count = int(self.lengths[0]) // steps
        if len(self.x) > 1 or count < 2:
            return self
        windows = self.x[0, : count * steps].unflatten(0, (count, steps))
        return Background(windows, torch.full((count,), steps))


class Others:
    """What stands in for the inputs of a batch.

    Args:
        model: embeds.
        background: where the inputs come from.
        x: `(B, T)` or `(B, T, D)`, the batch.
        most: donors wanted for each sequence of the batch.

    Attributes:
        mean: `(D,)` the mean embedded input.
        count: donors found for every sequence, at most `most`: sequences that are not the same as its own.
    """

    def __init__(self, model: SequenceModel, background: Background, x: Tensor, most: int) -> None:
        self._model, self._steps = model, x.shape[1]
        self._background = background.cut(self._steps)
        self.mean = _mean(model, background)
        found = [self._donors(b, own, most) for b, own in enumerate(x)]
        self.count = min(len(one) for one in found)
        self._rows = torch.tensor([one[: self.count] for one in found], dtype=torch.int64).view(len(x), -1)  # (B, k)

    @torch.no_grad()
    def donor(self, number: int) -> Tensor:
        """Return the embedded inputs of donor `number` (from 1) of every sequence, `(T, B, D)`."""
        rows = self._rows[:, number - 1].tolist()
        return self._model.embed(torch.stack([self._row(i) for i in rows])).transpose(0, 1)

    def _row(self, i: int) -> Tensor:
        """Return sequence i of the background as `(T, ...)`, repeated where it is shorter."""
        length = int(self._background.lengths[i])
        own = self._background.x[i, : min(length, self._steps)]
        return own if length >= self._steps else own[torch.arange(self._steps, device=own.device) % length]

    def _donors(self, b: int, own: Tensor, most: int) -> list[int]:
        """Choose up to `most` sequences of the background, spread over it, that differ from `own` `(T, ...)`."""
        found: list[int] = []
        for i in _spread(len(self._background.x), most, b):
            if not torch.equal(self._row(i), own):
                found.append(i)
            if len(found) == most:
                break
        return found


def given(background: Any, model: SequenceModel, device: torch.device) -> Background:
    """Check `background` as `fit` checks x.

    Raises:
        InputError: names it, what came and what was expected.
    """
    try:
        x, lengths, _ = as_sequences(background, model, dtype=torch.float64)
    except InputError as error:
        name = "background" if error.argument == "x" else f"background: {error.argument}"
        raise InputError(name, error.got, error.expected) from error
    return Background(x.to(device), lengths)


def background_of(
    background: Any, model: SequenceModel, x: Tensor, lengths: Tensor, withheld: str | None
) -> Background | None:
    """Return where stand-ins come from: `background` checked, the batch where its lengths differ, or None.

    None stands for the batch itself, all of it equally long. A batch of one is warned where it matters.

    Raises:
        InputError: a background that is none, or one where nothing stands in.
    """
    if background is not None:
        if withheld in ("skip", "zero"):
            raise InputError("background", "given", f'None for withheld="{withheld}": nothing is taken from it')
        return given(background, model, x.device)
    if len(x) == 1 and withheld in (None, "mean"):
        warn(ALONE, UserWarning)
    return None if int(lengths.min()) == x.shape[1] else Background(x, lengths)


@torch.no_grad()
def _mean(model: SequenceModel, background: Background) -> Tensor:
    """Return the mean embedded input over all steps of all sequences, `(D,)`."""
    total: Tensor | None = None
    for x, length in zip(background.x, background.lengths.tolist(), strict=True):
        for part in x[:length].split(CHUNK):
            one = model.embed(part.unsqueeze(0)).sum((0, 1))
            total = one if total is None else total + one
    assert total is not None
    return total / int(background.lengths.sum())


def _spread(n: int, most: int, start: int) -> Iterator[int]:
    """Yield all of 0..n-1 once, the first `most` of them far from each other."""
    stride = max(1, n // most)
    for first in range(stride):
        for i in range(first, n, stride):
            yield (start + i) % n
