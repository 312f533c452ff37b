"""A text as three parts of symbol numbers, with all facts that a quoted result needs."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hbll_seq.datasets.compression import bits_per_character
from hbll_seq.errors import InputError


@dataclass(frozen=True, eq=False)
class Text:
    """A character-level text, split into contiguous train, valid and test parts.

    Attributes:
        train: `(characters,)` int64 symbol numbers, in text order.
        valid: the following part, likewise.
        test: the last part.
        symbols: the characters of the whole text (so that `valid` has no unknown one), sorted;
            symbol number i is `symbols[i]`.
        sha256: of the whole text in UTF-8. Quote it: "pydoc" and "stdlib" change with Python's version.
        source: where the text came from, in words.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    symbols: list[str]
    sha256: str
    source: str

    @classmethod
    def from_string(
        cls, text: str, source: str = "a string", train_end: int | None = None, valid_end: int | None = None
    ) -> "Text":
        """Split any text of your own.

        Args:
            text: at least 20 characters.
            source: kept as `.source`.
            train_end: characters in `train`; 90 % of the text when None.
            valid_end: where `valid` ends and `test` begins; 95 % of the text when None.

        Raises:
            InputError: `text` is too short, or the ends are not `0 < train_end < valid_end <= len(text)`.
        """
        if len(text) < 20:
            raise InputError("text", f"{len(text)} characters", "at least 20")
        first = len(text) * 90 // 100 if train_end is None else train_end
        second = len(text) * 95 // 100 if valid_end is None else valid_end
        if not 0 < first < second <= len(text):
            raise InputError(
                "train_end, valid_end",
                f"{first}, {second}",
                f"0 < train_end < valid_end <= {len(text)}, the number of characters",
            )
        symbols = sorted(set(text))
        numbers = _numbers(text, symbols)
        return cls(
            # Clones: saving or keeping one part must not save or keep the whole text.
            train=numbers[:first].clone(),
            valid=numbers[first:second].clone(),
            test=numbers[second:].clone(),
            symbols=symbols,
            sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            source=source,
        )

    @property
    def vocab_size(self) -> int:
        """The number of symbols."""
        return len(self.symbols)

    def encode(self, text: str) -> Tensor:
        """Return `(len(text),)` int64 symbol numbers. An InputError names the first character that is no symbol."""
        return _numbers(text, self.symbols)

    def decode(self, numbers: Tensor) -> str:
        """Return the string of `(characters,)` integer symbol numbers; the inverse of `encode`.

        Raises:
            InputError: not one-dimensional, not integers, or a number outside `0 .. vocab_size - 1`.
        """
        if numbers.dim() != 1 or numbers.is_floating_point() or numbers.is_complex():
            got = f"{numbers.dtype} of shape {tuple(numbers.shape)}"
            raise InputError("numbers", got, "integers of shape (characters,)")
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.vocab_size:
            span = f"{int(numbers.min())} .. {int(numbers.max())}"
            raise InputError("numbers", span, f"symbol numbers 0 .. {self.vocab_size - 1}")
        return "".join([self.symbols[i] for i in numbers.tolist()])

    def bits_per_character(self) -> dict[str, float]:
        """Return the cost of `valid` for methods that learn nothing, to print beside a model's.

        All in bits per character of `valid`:

        - `"unigram"`: cross-entropy under the symbol frequencies of `train`, one added to each count.
        - `"gzip"`, `"xz"`: the cost of `valid` *given* `train`, the fair one beside a trained model:
          `(size(compress(train + valid)) - size(compress(train))) * 8 / len(valid)`, gzip at level 9,
          xz at its default level 6. gzip looks back 32 kB only, so it uses little of `train`;
          xz looks back 8 MiB.
        - `"gzip_alone"`, `"xz_alone"`: `size(compress(valid)) * 8 / len(valid)`.

        Takes seconds for millions of characters.
        """
        return bits_per_character(self.train, self.valid, self.symbols)

    def __repr__(self) -> str:
        """Return one line: sizes, vocabulary, source, the start of the hash."""
        return (
            f"Text({self.source}: train {len(self.train):,}, valid {len(self.valid):,}, "
            f"test {len(self.test):,} characters, {self.vocab_size} symbols, sha256 {self.sha256[:12]})"
        )


def _numbers(text: str, symbols: list[str]) -> Tensor:
    """Return `(len(text),)` int64: each character's place in the sorted `symbols`."""
    # One fixed-width code point a character lets NumPy look all of them up at once.
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    known = np.array([ord(symbol) for symbol in symbols], dtype="<u4")
    places = np.minimum(np.searchsorted(known, points), len(known) - 1)
    unknown = np.flatnonzero(known[places] != points)
    if unknown.size:
        got = f"{text[int(unknown[0])]!r} at character {unknown[0]}"
        raise InputError("text", got, f"one of the {len(symbols)} symbols")
    return torch.from_numpy(places.astype(np.int64))
