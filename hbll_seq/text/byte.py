"""`ByteTokenizer`: the 256 bytes of UTF-8; and the text of symbols that are strings of bytes."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.text.base import Tokenizer, check_text


class BytesTokenizer(Tokenizer):
    """Base of tokenizers whose symbols are strings of bytes, the parts of a text in UTF-8.

    Bytes that are no UTF-8 become U+FFFD, as Python's `errors="replace"` has it.

    Args:
        table: the bytes of each symbol.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table, self.vocab_size = list(table), len(table)
        self._bytes = torch.tensor([len(one) for one in self._table], device="cpu")

    def decode(self, symbols: Any) -> str:
        """See `Tokenizer`."""
        return b"".join([self._table[i] for i in self.check(symbols)]).decode("utf-8", "replace")

    def pieces(self, symbols: Iterable[int]) -> Iterator[str]:
        """See `Tokenizer`."""
        reader = codecs.getincrementaldecoder("utf-8")("replace")
        for symbol in symbols:
            yield reader.decode(self._table[symbol])
        yield reader.decode(b"", final=True)

    def bytes_of(self, symbols: Tensor) -> int:
        """See `Tokenizer`."""
        return int(self._bytes[symbols.to("cpu", torch.int64)].sum())


class ByteTokenizer(BytesTokenizer):
    """A symbol for each of the 256 bytes: any text can be read."""

    kind = "byte"
    dtype = torch.uint8

    def __init__(self) -> None:
        super().__init__([bytes([i]) for i in range(256)])

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer`."""
        return torch.from_numpy(np.frombuffer(utf8(text), dtype=np.uint8).copy())

    def config(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": self.kind}


def utf8(text: str) -> bytes:
    """Return the bytes of a text.

    Raises:
        InputError: no text, or half of a surrogate pair in it, which UTF-8 does not have.
    """
    try:
        return check_text(text).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError("text", f"a lone surrogate at character {error.start}", "text that UTF-8 can write") from error
