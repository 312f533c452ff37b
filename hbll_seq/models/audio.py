"""Sound models: one label per recording (`AudioClassifier`), or one label per time step (`AudioTagger`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.audio import Front
from hbll_seq.audio.front import make
from hbll_seq.data.streaming import check_state
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember


class Listening(NamedTuple):
    """The position of a listening model between two chunks.

    Attributes:
        waiting: samples that do not fill a time step yet.
        state: state of every layer.
    """

    waiting: Tensor
    state: list[Tensor] | None


class _Audio(SequenceModel):
    def __init__(self, classes: int, front: Front | dict[str, int | str], task: Any, **options: Any) -> None:
        self.front = front if isinstance(front, Front) else make(front)
        super().__init__(self.front.size, classes, task=task, input_kind="features", **options)
        if self._config is not None:
            self._config = {"classes": classes, "front": self.front.config(), **options}

    def prepare(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the inputs of `fit`: time steps `(n, T, D)` and lengths `(n,)`; see `Front.__call__` for errors."""
        return self.front(waves)

    @torch.no_grad()
    def listen(self, chunk: Tensor, where: Listening | None = None) -> tuple[Tensor, Listening]:
        """Read the next samples `(m,)` of a sound, any number of them, in constant memory.

        Returns:
            Logits `(steps, V)` after every time step that the chunk completed (maybe none), and the new position.

        Raises:
            InputError: samples that are not finite or of no known range, or a `where` that `listen` did not return.
        """
        where = Listening(torch.zeros(0), None) if where is None else where
        if not isinstance(where, Listening):
            raise InputError("where", type(where).__name__, "what `listen` returned, or None")
        state = where.state
        if state is not None:
            state = check_state(state, [(1, cell.state_size) for cell in self.cells], self.readout.weight)
        steps, waiting = self.front.stream(chunk, where.waiting)
        if not len(steps):
            return self.readout.weight.new_zeros(0, self.output_size), Listening(waiting, state)
        heard, state = self.advance_all(steps.to(self.readout.weight)[None], state)
        return heard[0], Listening(waiting, state)


@remember
class AudioClassifier(_Audio):
    """A model of one label per recording.

    Args:
        classes: number of labels V.
        front: a `hbll_seq.audio.Front` (raw frames or log-mel), or its `config()`.
        options: as for `SequenceModel` (hidden, cell, layers, timescale, seed, ...).
    """

    def __init__(self, classes: int, front: Front | dict[str, int | str], **options: Any) -> None:
        super().__init__(classes, front, "sequence", **options)


@remember
class AudioTagger(_Audio):
    """A model of one label per time step; arguments as for `AudioClassifier`."""

    def __init__(self, classes: int, front: Front | dict[str, int | str], **options: Any) -> None:
        super().__init__(classes, front, "step", **options)
