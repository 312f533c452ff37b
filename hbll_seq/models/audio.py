"""Sound models: one label per recording (`AudioClassifier`), or one label per time step (`AudioTagger`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.audio import Augment, Front
from hbll_seq.audio.augmenter import augment_from
from hbll_seq.audio.front import make
from hbll_seq.audio.samples import as_waves
from hbll_seq.audio.training_sounds import augmented, waves_in
from hbll_seq.data.batch import Batch
from hbll_seq.data.scalars import flag, integer
from hbll_seq.data.sources import Padded, Source
from hbll_seq.data.streaming import check_state
from hbll_seq.errors import InputError
from hbll_seq.models.own_options import own_options
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
    def __init__(
        self, classes: int | list[str], front: Front | dict[str, int | str], task: Any,
        augment: Augment | dict[str, Any] | None, /, **options: Any,
    ) -> None:  # fmt: skip
        self.front = front if isinstance(front, Front) else make(front)
        self.augment = augment_from(augment)
        classes = classes if isinstance(classes, list | tuple) else integer("classes", classes)
        decided = {"input_size": self.front.size, "output_size": classes, "task": task, "input_kind": "features"}
        options = own_options(options, "the front end, `classes` and the class decide it", decided)
        super().__init__(self.front.size, classes, task=task, input_kind="features", **options)
        if self.augment is not None:
            if self.augment.bands >= self.front.size:
                wanted = f"bands below {self.front.size}, the size of the front end"
                raise InputError("augment", f"bands={self.augment.bands}", wanted)
            if self.augment.speed and task == "step":
                raise InputError("augment", f"speed={self.augment.speed}", "0: targets belong to time steps")
        if self._config is not None:
            extra = {} if self.augment is None else {"augment": self.augment.config()}
            self._config = {"classes": self.output_size, "front": self.front.config(), **extra, **options}

    def prepare(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the inputs of `fit`: time steps `(n, T, D)` and lengths `(n,)`; see `Front.__call__` for errors."""
        return self.front(waves)

    def prepared(self, x: Any) -> Any:
        """See `Model`."""
        return self.prepare(x) if waves_in(x) else x

    def make_source(
        self, x: Any, y: Any, *, mask: Any, window: int | None, ignore_index: int, weight: Any = None
    ) -> Source:
        """See `Model`; training batches are augmented (`audio.training_sounds`)."""
        found = super().make_source(x, y, mask=mask, window=window, ignore_index=ignore_index, weight=weight)
        return self.augmented(found, x)

    def augmented(self, source: Source, x: Any) -> Source:
        """See `Model`."""
        if not isinstance(source, Padded) or self.augment is None:
            return source
        return augmented(source, as_waves(x, self.front.rate) if waves_in(x) else None, self.prepare, self.augment)

    def rehearse(self, batch: Batch, sources: list[Source]) -> None:
        """See `Model`; only sounds in memory can be augmented."""
        if self.augment is not None and not isinstance(sources[0], Padded):
            came = f"a {type(sources[0]).__name__} beside a model's augment="
            raise InputError("x", came, "sequences in memory; a DataLoader's dataset may call Augment.wave itself")

    def task_settings(self) -> dict[str, Any]:
        """See `Model`."""
        return {**super().task_settings(), "augment": None if self.augment is None else self.augment.config()}

    @torch.no_grad()
    def listen(self, chunk: Tensor, where: Listening | None = None, *, end: bool = False) -> tuple[Tensor, Listening]:
        """Read the next samples `(m,)` of a sound, any number of them, in constant memory.

        Args:
            chunk: the samples.
            where: the position that the call before returned; None at a sound's start.
            end: whether the sound ends with this chunk, which may be empty. The samples that still wait are then
                filled with zeros to a whole time step, as `prepare` does: all logits are those of the whole sound.

        Returns:
            Logits `(steps, V)` after every time step that the chunk completed (maybe none), and the new position.

        Raises:
            InputError: samples that are not finite or of no known range, a `where` that `listen` did not return, or a
                bidirectional model.
        """
        self.check_causal("listen")
        where, end = Listening(torch.zeros(0), None) if where is None else where, flag("end", end)
        if not isinstance(where, Listening):
            raise InputError("where", type(where).__name__, "what `listen` returned, or None")
        state = where.state
        if state is not None:
            state = check_state(state, [(1, cell.state_size) for cell in self.cells], self.readout.weight)
        steps, waiting = self.front.stream(chunk, where.waiting)
        if end:
            rest = self.front.flush(waiting, len(steps) + (state is not None))
            steps, waiting = torch.cat([steps, rest]), waiting[:0]
        if not len(steps):
            return self.readout.weight.new_zeros(0, self.output_size), Listening(waiting, state)
        heard, state = self.advance_all(steps.to(self.readout.weight)[None], state)
        return heard[0], Listening(waiting, state)


@remember
class AudioClassifier(_Audio):
    """A model of one label per recording.

    Args:
        classes: number of labels V, or their names.
        front: a `hbll_seq.audio.Front` (raw frames or log-mel), or its `config()`.
        augment: a `hbll_seq.audio.Augment`: fresh copies of the sounds in every epoch of `fit`, from its seed. Sounds
            are given to `fit` as a list of waves then. Held-out data, `evaluate` and `predict` are left alone.
        options: as for `SequenceModel` (hidden, cell, layers, timescale, dropout, bidirectional, seed, ...).
    """

    def __init__(
        self, classes: int | list[str], front: Front | dict[str, int | str], *,
        augment: Augment | dict[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(classes, front, "sequence", augment, **options)


@remember
class AudioTagger(_Audio):
    """A model of one label per time step; arguments as for `AudioClassifier`, but no augmentation by speed."""

    def __init__(
        self, classes: int | list[str], front: Front | dict[str, int | str], *,
        augment: Augment | dict[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(classes, front, "step", augment, **options)
