"""`OutsideTokenizer`: a tokenizer of another package, by its `encode` and `decode`."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError
from hbll_seq.text.base import Tokenizer, check_text

SIZES = ("vocab_size", "n_vocab", "get_vocab_size", "get_piece_size", "GetPieceSize", "piece_size")


class OutsideTokenizer(Tokenizer):
    """Any object with `encode(text)` and `decode(symbols)`.

    Hugging Face's tokenizers, sentencepiece's processors and tiktoken's encodings are such objects. What special
    symbols they add is theirs to say.

    Args:
        inner: the object. `encode` returns integers, or an object whose `ids` are; `decode` takes a list.
        vocab_size: number of symbols V; None: its own `len`, `vocab_size`, `n_vocab` or the like.

    Raises:
        InputError: no such object, or one that does not say its size.
    """

    kind = "outside"
    dtype = torch.int32

    def __init__(self, inner: Any, vocab_size: int | None = None) -> None:
        if not all(callable(getattr(inner, name, None)) for name in ("encode", "decode")):
            raise InputError("tokenizer", type(inner).__name__, "an object with encode(text) and decode(symbols)")
        self.inner = inner
        self.vocab_size = integer("vocab_size", _size(inner) if vocab_size is None else vocab_size)

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer`.

        Raises:
            InputError: no text, or an `encode` that returns anything but symbols in 0..V-1.
        """
        found = self.inner.encode(check_text(text))
        found = getattr(found, "ids", found)
        try:
            symbols = torch.as_tensor(found, dtype=torch.int64).flatten() if len(found) else torch.zeros(0).long()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError("tokenizer", f"an encode that returns {type(found).__name__}", "a list of ints") from error
        if len(symbols) and not 0 <= int(symbols.min()) <= int(symbols.max()) < self.vocab_size:
            came = f"symbols in {int(symbols.min())}..{int(symbols.max())} from encode"
            raise InputError("tokenizer", came, f"symbols in 0..{self.vocab_size - 1}")
        return symbols.to(self.dtype)

    def decode(self, symbols: Any) -> str:
        """See `Tokenizer`."""
        found: str = self.inner.decode(self.check(symbols))
        return found

    def pieces(self, symbols: Iterable[int]) -> Iterator[str]:
        """See `Tokenizer`. Two decoded strings are compared, one with the new symbols and one without: their difference
        is the new text. It waits while the text ends with U+FFFD, a character that is incomplete.
        """
        every: list[int] = []
        start, done = 0, 0  # symbols from `start` on are decoded, those before `done` have been given out
        for symbol in symbols:
            every.append(symbol)
            before, now = self.inner.decode(every[start:done]), self.inner.decode(every[start:])
            if now.endswith("\ufffd") or len(now) <= len(before):
                yield ""
                continue
            yield now[len(before) :]
            start, done = done, len(every)
        yield self.inner.decode(every[start:])[len(self.inner.decode(every[start:done])) :]

    def bytes_of(self, symbols: Tensor) -> int:
        """See `Tokenizer`. A character that the symbols cut counts as U+FFFD, three bytes."""
        return len(self.inner.decode(symbols.tolist()).encode("utf-8", "surrogatepass"))

    def config(self) -> dict[str, Any]:
        """See `Tokenizer`; only its name: the object is not this package's to write."""
        kind = type(self.inner)
        return {"kind": self.kind, "name": f"{kind.__module__}.{kind.__qualname__}", "vocab_size": self.vocab_size}

    @property
    def portable(self) -> bool:
        """See `Tokenizer`."""
        return False


def _size(inner: Any) -> Any:
    """Return the number of symbols that an object says it has."""
    try:
        return len(inner)  # of Hugging Face's: with its added tokens, which vocab_size leaves out
    except TypeError:
        pass
    for name in SIZES:
        found = getattr(inner, name, None)
        found = found() if callable(found) else found
        if isinstance(found, int):
            return found
    raise InputError("vocab_size", f"None, and a {type(inner).__name__} that does not say it", "the number of symbols")
