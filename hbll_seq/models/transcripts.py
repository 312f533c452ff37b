"""Waves and transcripts as data of a `Transcriber`: labels as numbers, checks that name the utterance, batches.

Number 0 is CTC's blank; label i of the alphabet is number i + 1.
"""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hbll_seq.audio import Augment
from hbll_seq.audio.training_sounds import Prepare, augmented
from hbll_seq.data.pairs import Pairs
from hbll_seq.errors import InputError
from hbll_seq.models.torch_losses import needed


class Alphabet:
    """The labels that transcripts are made of.

    Args:
        labels: a string of characters, or a sequence of names such as phonemes or words.

    Attributes:
        labels: the names, in order.
        spaced: whether a transcript in one string has its labels between spaces: names longer than one character.

    Raises:
        InputError: no labels, labels that are no text, or the same one twice.
    """

    def __init__(self, labels: str | Sequence[str]) -> None:
        if not isinstance(labels, str | list | tuple) or not len(labels):
            raise InputError("labels", f"{labels!r}"[:80], "a string of characters or a list of names, at least one")
        for one in labels:
            if not isinstance(one, str) or not one:
                raise InputError("labels", f"{one!r} among them", "names that are not empty")
        twice = [one for i, one in enumerate(labels) if one in labels[:i]]
        if twice:
            raise InputError("labels", f"{twice[0]!r} twice", "every label once")
        self.labels = list(labels)
        self.spaced = any(len(one) > 1 for one in self.labels)
        if self.spaced and any(one != "".join(one.split()) for one in self.labels):
            raise InputError("labels", "names with spaces in them", "names without: spaces separate them")
        self._numbers = {one: i + 1 for i, one in enumerate(self.labels)}

    def __len__(self) -> int:
        """Return the number of labels, without the blank."""
        return len(self.labels)

    def numbers(self, transcript: Any, name: str) -> Tensor:
        """Return a transcript as numbers `(n,)`.

        Args:
            transcript: a string; or a sequence of labels, or of their positions in the alphabet (from 0).
            name: its name in messages.

        Raises:
            InputError: no transcript, an empty one, or a label that the alphabet does not have.
        """
        if isinstance(transcript, str):
            items: Sequence[Any] = transcript.split() if self.spaced else transcript
        elif isinstance(transcript, Tensor) or hasattr(transcript, "__array__"):
            items = (transcript if isinstance(transcript, Tensor) else np.asarray(transcript)).tolist()
        else:
            items = transcript
        if not isinstance(items, Sequence) or isinstance(items, bytes | bytearray):
            raise InputError(name, type(transcript).__name__, "a string, or a sequence of labels or their positions")
        if not len(items):
            raise InputError(name, "an empty transcript", "at least one label; leave the sound out")
        found = [self._number(one, name, i) for i, one in enumerate(items)]
        return torch.tensor(found, dtype=torch.int64)

    def _number(self, one: Any, name: str, at: int) -> int:
        if isinstance(one, numbers.Integral) and not isinstance(one, bool):
            if not 0 <= int(one) < len(self):
                raise InputError(name, f"position {one} at {at}", f"positions of labels, 0..{len(self) - 1}")
            return int(one) + 1
        if one not in self._numbers if isinstance(one, str) else True:
            shown = "".join(self.labels) if not self.spaced else " ".join(self.labels)
            raise InputError(name, f"{one!r} at {at}", f"labels among {shown[:80]!r}")
        return self._numbers[one]

    def text(self, found: Sequence[int]) -> str:
        """Return numbers as a string."""
        return (" " if self.spaced else "").join(self.labels[one - 1] for one in found)

    def all(self, transcripts: Any, count: int) -> list[Tensor]:
        """Return every transcript as numbers.

        Raises:
            InputError: as `numbers` (names the utterance), or another number of transcripts than of waves.
        """
        if isinstance(transcripts, str | bytes | dict | set) or not hasattr(transcripts, "__iter__"):
            raise InputError("y", type(transcripts).__name__, "a list of transcripts, one for each wave")
        listed = list(transcripts)
        if len(listed) != count:
            raise InputError("y", f"{len(listed)} transcripts", f"{count}, one for each wave")
        return [self.numbers(one, f"y[{i}]") for i, one in enumerate(listed)]


def read_utterances(
    sounds: list[Tensor], transcripts: Any, alphabet: Alphabet, prepare: Prepare, outputs: Callable[[int], int],
    augment: Augment | None = None, weight: Tensor | None = None,
) -> Pairs:  # fmt: skip
    """Return utterances, checked before any work starts: the front end's time steps `(N, T, D)`, labels `(N, L)`.

    Args:
        sounds: each `(samples,)`, as `as_waves` returns them.
        transcripts: see `Alphabet.numbers`.
        alphabet: the labels.
        prepare: the front end, in the model's dtype.
        outputs: returns the time steps of the model's scores for a wave of so many samples.
        augment: changes the sounds of training batches; every copy must have room for the labels, too.
        weight: `(N,)` weights of the utterances in the loss.

    Raises:
        InputError: names the utterance: a silent wave; a transcript that `Alphabet` refuses, or with more labels than
            the model has outputs for its wave.
    """
    for i, wave in enumerate(sounds):
        if not bool(wave.any()):
            raise InputError(f"waves[{i}]", "silence: every sample is 0", "a sound with its transcript")
    ids = alphabet.all(transcripts, len(sounds))
    y, sizes = pad_sequence(ids, batch_first=True), torch.tensor([len(one) for one in ids])
    for i, (wave, need) in enumerate(zip(sounds, needed(y, sizes).tolist(), strict=True)):
        shortest = len(wave) if augment is None else augment.shortest(len(wave))
        if need > outputs(shortest):
            copy = "" if shortest == len(wave) else f" (the shortest copy that augment= makes of {len(wave)})"
            raise InputError(
                f"y[{i}]", f"{int(sizes[i])} labels, which need {need} outputs (one each, and one between equal ones), "
                f"for {shortest} samples{copy}, which give {outputs(shortest)}",
                "a longer sound, a shorter transcript, or a model of smaller hop and strides",
            )  # fmt: skip
    x, lengths = prepare(sounds)
    unequal = int(lengths.min()) < x.shape[1]
    return augmented(Pairs(x, lengths, y, None, sizes, weight, unequal, False), sounds, prepare, augment)
