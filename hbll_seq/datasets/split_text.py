"""A text as three parts of symbol numbers, with all facts that a quoted result needs."""

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hbll_seq.data.scalars import number
from hbll_seq.datasets.compression import bits_per_character
from hbll_seq.errors import InputError
from hbll_seq.text import CharTokenizer, Tokenizer, made_for


@dataclass(frozen=True, eq=False)
class Text:
    """A text in symbols, split into contiguous train, valid and test parts.

    Attributes:
        train: `(n,)` symbols in text order: int64 for characters, uint8 for bytes, int32 for others.
        valid: those of the following part, likewise; each part is encoded alone.
        test: those of the last part.
        tokenizer: from text to symbols and back. Of characters: those of the whole text, so that `valid` and `test`
            have no unknown one. BPE: learned from `train` alone.
        sha256: of the whole text in UTF-8. Quote it: "pydoc" and "stdlib" change with Python's version.
        source: where the text came from, in words.
        skipped: files of a folder that were left out, each with the reason.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    tokenizer: Tokenizer
    sha256: str
    source: str
    skipped: tuple[str, ...] = ()

    @classmethod
    def from_string(
        cls, text: str, source: str = "a string", train_end: int | None = None, valid_end: int | None = None,
        tokenizer: Any = "char",
    ) -> "Text":  # fmt: skip
        """Split any text of your own.

        Args:
            text: at least 20 characters.
            source: kept as `.source`.
            train_end: characters in `train`; 90 % of the text when None.
            valid_end: where `valid` ends and `test` begins; 95 % of the text when None.
            tokenizer: see `hbll_seq.datasets.text`.

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
        return cls.from_parts(text[:first], text[first:second], text[second:], source=source, tokenizer=tokenizer)

    @classmethod
    def from_parts(
        cls, train: str, valid: str, test: str = "", *, source: str = "strings", tokenizer: Any = "char",
        skipped: tuple[str, ...] = (),
    ) -> "Text":  # fmt: skip
        """Take parts that are split already; `test` may be empty.

        Raises:
            InputError: no training text, or a tokenizer that cannot be made or cannot read it.
        """
        if not train:
            raise InputError("train", "no characters", "at least one")
        whole = train + valid + test
        made = made_for(tokenizer, whole, train)
        return cls(
            train=made.encode(train),
            valid=made.encode(valid),
            test=made.encode(test),
            tokenizer=made,
            sha256=hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest(),
            source=source,
            skipped=skipped,
        )

    @property
    def vocab_size(self) -> int:
        """The number of symbols."""
        return self.tokenizer.vocab_size

    @property
    def symbols(self) -> list[str] | None:
        """The characters, sorted: symbol number i is `symbols[i]`; None for another tokenizer."""
        return list(self.tokenizer.symbols) if isinstance(self.tokenizer, CharTokenizer) else None

    def encode(self, text: str) -> Tensor:
        """Return the symbol numbers `(n,)` of a text. An InputError names the first character that is no symbol."""
        return self.tokenizer.encode(text)

    def decode(self, numbers: Any) -> str:
        """Return the string of `(n,)` integer symbol numbers; the inverse of `encode`.

        Raises:
            InputError: not one-dimensional, not integers, or a number outside `0 .. vocab_size - 1`.
        """
        return self.tokenizer.decode(numbers)

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

        Raises:
            InputError: `valid` is empty.
        """
        if not len(self.valid):
            raise InputError("valid", "no symbols", "a validation part")
        return bits_per_character(self.train, self.valid, self.tokenizer)

    def __repr__(self) -> str:
        """Return one line: sizes, vocabulary, source, the start of the hash."""
        what = "characters" if isinstance(self.tokenizer, CharTokenizer) else f"symbols ({self.tokenizer.kind})"
        return (
            f"Text({self.source}: train {len(self.train):,}, valid {len(self.valid):,}, "
            f"test {len(self.test):,} {what}, {self.vocab_size} symbols, sha256 {self.sha256[:12]})"
        )


def ends(characters: int, valid: float, test: float) -> tuple[int, int]:
    """Return where `train` and `valid` end in a text of so many characters.

    Args:
        characters: of the whole text.
        valid: share of the text for `valid`.
        test: share for `test`, from its end; 0 for none.

    Raises:
        InputError: shares that leave nothing to train on or to validate on.
    """
    valid, test = number("valid", valid, most=1.0), number("test", test, most=1.0)
    second = characters - round(characters * test)
    first = second - round(characters * valid)
    if not 0 < first < second:
        raise InputError("valid, test", f"{valid:g}, {test:g} of {characters} characters", "shares that leave a train "
                         "and a valid part")  # fmt: skip
    return first, second
