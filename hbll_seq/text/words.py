"""`WordTokenizer`: a symbol for each frequent word of a text; no package is needed.

A word is a run of letters and digits, or of other signs, with the one space before it; every other space is a symbol of
its own, so a text whose words are all known decodes back as it was. A word that is not in the list is read as `<unk>`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError
from hbll_seq.text.base import Tokenizer, check_text

UNKNOWN = "<unk>"
_WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s")


class WordTokenizer(Tokenizer):
    """A symbol for each word of a list; symbol 0 is `<unk>`, every other word.

    The figures of a model count an unknown word as the symbol `<unk>`, and in `bits_per_byte` as its five bytes. So
    compare perplexities only between models with the same list.

    Args:
        words: the words, each with the space before it if it has one; the first is "<unk>".

    Raises:
        InputError: not different strings, or another first one.
    """

    kind = "word"
    dtype = torch.int32

    def __init__(self, words: list[str]) -> None:
        if not isinstance(words, list | tuple) or not all(isinstance(one, str) for one in words):
            raise InputError("words", type(words).__name__, "a list of strings")
        if not words or words[0] != UNKNOWN or len(set(words)) < len(words):
            raise InputError("words", f"{len(words)} words", f'different ones, "{UNKNOWN}" first')
        self.words, self.vocab_size = list(words), len(words)
        self._places = {one: i for i, one in enumerate(self.words)}
        self._bytes = torch.tensor([len(one.encode("utf-8", "surrogatepass")) for one in self.words], device="cpu")

    @classmethod
    def train(cls, text: str, vocab_size: int | None = None) -> "WordTokenizer":
        """Take the most frequent words of a text, equally frequent ones in alphabetic order.

        Args:
            text: the training part alone.
            vocab_size: largest number of symbols V with `<unk>`, from 2; a text with fewer words has fewer. None for
                every word that occurs twice or more.

        Raises:
            InputError: an argument out of range; with None, no word that occurs twice.
        """
        counts = Counter(_WORD.findall(check_text(text)))
        if vocab_size is None and max(counts.values(), default=0) < 2:
            raise InputError("text", f"{len(counts)} words, none of them twice", "a longer text, or a vocab_size")
        ranked = sorted(counts, key=lambda one: (-counts[one], one))
        if vocab_size is None:
            return cls([UNKNOWN, *(one for one in ranked if counts[one] > 1)])
        return cls([UNKNOWN, *ranked[: integer("vocab_size", vocab_size, least=2) - 1]])

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer`; there is no text that it cannot read."""
        places = self._places
        found = [places.get(one, 0) for one in _WORD.findall(check_text(text))]
        return torch.tensor(found, dtype=self.dtype)

    def decode(self, symbols: Any) -> str:
        """See `Tokenizer`."""
        return "".join([self.words[i] for i in self.check(symbols)])

    def pieces(self, symbols: Iterable[int]) -> Iterator[str]:
        """See `Tokenizer`."""
        return (self.words[i] for i in symbols)

    def bytes_of(self, symbols: Tensor) -> int:
        """See `Tokenizer`."""
        return int(self._bytes[symbols.to("cpu", torch.int64)].sum())

    def config(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": self.kind, "words": list(self.words)}
