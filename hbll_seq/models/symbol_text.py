"""Text for models over symbols: to symbols and back by a tokenizer, checks of a prompt.

A symbol is an integer in 0..V-1 everywhere in this package.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.data.streaming import check_prompt
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.text import CharTokenizer, Tokenizer

Encode = Callable[[str], Tensor]
Decode = Callable[[Tensor], str]


class SymbolText:
    """A mixin by which models over symbols read and write text.

    Attributes:
        tokenizer: from text to the model's symbols and back; or None.
        symbols: the V characters in order, `symbols[i]` for symbol i; None without a tokenizer of characters.
    """

    tokenizer: Tokenizer | None = None
    symbols: list[str] | None = None

    def name_symbols(self, symbols: list[str] | None, vocab_size: int) -> None:
        """Keep `symbols`, one character for each of the model's symbols."""
        if symbols is not None:
            if not isinstance(symbols, list | tuple | str) or not all(isinstance(one, str) for one in symbols):
                raise InputError("symbols", type(symbols).__name__, f"a list of {vocab_size} strings, one a symbol")
            if len(symbols) != vocab_size:
                raise InputError("symbols", f"{len(symbols)} characters", f"{vocab_size}, one a symbol")
        self.symbols, self.tokenizer = symbols, None if symbols is None else CharTokenizer(symbols)

    def begin(self, prompt: str | Tensor, length: int, encode: Encode | None = None) -> Tensor:
        """Check prompt and length; return the prompt as a 1-D int64 tensor on the CPU."""
        integer("length", length)
        if isinstance(prompt, str):
            prompt = (encode or self._encode)(prompt)
        assert isinstance(self, Model)
        return check_prompt(prompt, self)

    def finish(self, ids: Tensor, prompt: str | Tensor, decode: Decode | None = None) -> str | Tensor:
        """Turn symbols back into text if the prompt was text."""
        return (decode or self._decode)(ids) if isinstance(prompt, str) else ids

    def _encode(self, text: str) -> Tensor:
        if self.tokenizer is None:
            expected = "a tensor, or a model with symbols=... or a tokenizer"
            raise InputError("prompt", "text, but the model has no symbols", expected)
        if isinstance(self.tokenizer, CharTokenizer):
            unknown = sorted(set(text) - set(self.tokenizer.symbols))
            if unknown:
                raise InputError("prompt", f"characters {unknown}", "characters among the model's symbols")
        return self.tokenizer.encode(text)

    def _decode(self, ids: Any) -> str:
        assert self.tokenizer is not None
        return self.tokenizer.decode(ids)
