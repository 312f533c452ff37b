"""The hook by which sounds are augmented while a model trains on them.

A model of sound reads its data as any other: the waves become time steps once, and a `Padded` source (or a `Pairs`)
draws batches of them. `augmented` gives that source a function that makes every training batch anew, from the waves of
its rows: fresh copies, time steps by the front end, masks. Evaluation and held-out data are not touched.

A model with an option `augment=` calls it at the end of `make_source`:

    source = ...  # of the time steps of `waves`, from `prepare(waves)`, and of any targets
    return augmented(source, waves, self.prepare, self.augment)
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from hbll_seq.audio.augmenter import Augment
from hbll_seq.audio.samples import has_rate
from hbll_seq.data.batch import Batch
from hbll_seq.data.sources import Padded
from hbll_seq.errors import InputError

P = TypeVar("P", bound=Padded)
Prepare = Callable[[list[Tensor]], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class TrainingSounds:
    """What makes training batches anew; see `hbll_seq.data.sources.Renew`.

    Attributes:
        waves: all sounds, in the order of the source; None if only their time steps are known.
        prepare: turns waves into time steps `(n, T, D)` and lengths `(n,)`.
        augment: the augmentation.
    """

    waves: Sequence[Tensor] | None
    prepare: Prepare
    augment: Augment

    def __call__(self, batch: Batch, rows: Sequence[int], epoch: int, seed: int) -> Batch:
        """Return `batch`, the rows `rows` of the source, with augmented time steps.

        Raises:
            InputError: an augmentation of waves where only time steps are known.
        """
        x, lengths = batch.x, batch.lengths
        if self.augment.changes_waves:
            if self.waves is None:
                wanted = "a list of waves, each (samples,): speed, colour and noise of augment= change the waves"
                raise InputError("x", "no list of waves", wanted)
            heard = [self.augment.wave(self.waves[i], seed=seed, epoch=epoch, index=i) for i in rows]
            x, lengths = self.prepare(heard)
            x = x.to(batch.x)
        x = self.augment.mask(x, lengths, seed=seed, epoch=epoch, indices=rows)
        return batch._replace(x=x, lengths=lengths)

    def longest(self, steps: int) -> int:
        """Return the most time steps of a sound that has `steps`."""
        return math.ceil(self.augment.longest(100) * steps / 100) + 1 if self.augment.speed else steps


def augmented(source: P, waves: Sequence[Tensor] | None, prepare: Prepare, augment: Augment | None) -> P:
    """Return a source whose training batches are augmented.

    Args:
        source: of the time steps of `waves`. Targets are one for each sequence, or have lengths of their own (`Pairs`);
            targets for every time step allow no speed.
        waves: the sounds, row by row, float tensors `(samples,)`; None if they are not known.
        prepare: turns waves into time steps and lengths.
        augment: the augmentation; None for the source as it is.
    """
    if augment is None:
        return source
    return dataclasses.replace(source, renew=TrainingSounds(waves, prepare, augment))


def waves_in(x: Any) -> bool:
    """Return whether x is a list of waves `(samples,)`, tensors or arrays, with or without rates; not of time steps."""
    waves = [one[0] if has_rate(one) else one for one in x] if isinstance(x, list) else []
    return bool(waves) and all(getattr(one, "ndim", None) == 1 for one in waves)
