"""`CharTokenizer`: a symbol for each character of a list."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.text.base import Tokenizer, check_text


class CharTokenizer(Tokenizer):
    """A symbol for each character.

    Args:
        symbols: the V characters, in order: symbol i is `symbols[i]`. A string of several characters stands for a
            symbol that no text is read as, such as "<pad>".

    Raises:
        InputError: not strings, none, or one twice.
    """

    kind = "char"

    def __init__(self, symbols: Sequence[str]) -> None:
        if not isinstance(symbols, list | tuple | str) or not all(isinstance(one, str) for one in symbols):
            raise InputError("symbols", type(symbols).__name__, "a list of strings, one a symbol")
        if not symbols:
            raise InputError("symbols", "none", "at least one character")
        if len(set(symbols)) < len(symbols):
            twice = next(one for i, one in enumerate(symbols) if one in symbols[:i])
            places = [i for i, one in enumerate(symbols) if one == twice]
            raise InputError("symbols", f"{twice!r} at {', '.join(map(str, places))}", "every character once")
        self.symbols, self.vocab_size = list(symbols), len(symbols)
        single = [(ord(one), i) for i, one in enumerate(self.symbols) if len(one) == 1]
        single.sort()
        self._points = np.array([point for point, _ in single], dtype="<u4")
        self._places = np.array([place for _, place in single], dtype=np.int64)
        self._bytes = torch.tensor([len(one.encode("utf-8", "surrogatepass")) for one in self.symbols], device="cpu")

    @classmethod
    def of(cls, text: str) -> "CharTokenizer":
        """Make the tokenizer of all characters of a text, sorted."""
        return cls(sorted(set(check_text(text))))

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer`; the error names the first character that is no symbol."""
        # one fixed-width code point a character: NumPy looks all of them up at once
        points = np.frombuffer(check_text(text).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        if not len(points):
            return torch.zeros(0, dtype=torch.int64)
        if not len(self._points):
            raise self._unknown(text, 0)
        places = np.maximum(np.searchsorted(self._points, points, side="right") - 1, 0)
        unknown = np.flatnonzero(self._points[places] != points)
        if unknown.size:
            raise self._unknown(text, int(unknown[0]))
        return torch.from_numpy(self._places[places])

    def _unknown(self, text: str, at: int) -> InputError:
        return InputError("text", f"{text[at]!r} at character {at}", f"one of the {self.vocab_size} symbols")

    def decode(self, symbols: Any) -> str:
        """See `Tokenizer`."""
        return "".join([self.symbols[i] for i in self.check(symbols)])

    def pieces(self, symbols: Iterable[int]) -> Iterator[str]:
        """See `Tokenizer`."""
        return (self.symbols[i] for i in symbols)

    def bytes_of(self, symbols: Tensor) -> int:
        """See `Tokenizer`."""
        return int(self._bytes[symbols.to("cpu", torch.int64)].sum())

    def config(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": self.kind, "symbols": list(self.symbols)}
