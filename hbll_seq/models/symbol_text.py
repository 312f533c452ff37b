"""Text for models over symbols: characters to symbols and back, checks of a prompt.

A symbol is an integer in 0..V-1 everywhere in this package. A model's list `symbols` names the character of each.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.data.streaming import check_prompt
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model

Encode = Callable[[str], Tensor]
Decode = Callable[[Tensor], str]


class SymbolText:
    """A mixin by which models over symbols read and write text.

    Attributes:
        symbols: the V characters in order, `symbols[i]` for symbol i; or None.
    """

    symbols: list[str] | None

    def name_symbols(self, symbols: list[str] | None, vocab_size: int) -> None:
        """Keep `symbols`, one character for each of the model's symbols."""
        if symbols is not None:
            if not isinstance(symbols, list | tuple | str) or not all(isinstance(one, str) for one in symbols):
                raise InputError("symbols", type(symbols).__name__, f"a list of {vocab_size} strings, one a symbol")
            if len(symbols) != vocab_size:
                raise InputError("symbols", f"{len(symbols)} characters", f"{vocab_size}, one a symbol")
        self.symbols = symbols

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
        if self.symbols is None:
            raise InputError("prompt", "text, but the model has no symbols", "a tensor, or a model with symbols=...")
        index = {s: i for i, s in enumerate(self.symbols)}
        unknown = sorted(set(text) - set(index))
        if unknown:
            raise InputError("prompt", f"characters {unknown}", "characters among the model's symbols")
        return torch.tensor([index[s] for s in text], dtype=torch.int64)

    def _decode(self, ids: Tensor) -> str:
        assert self.symbols is not None
        return "".join(self.symbols[i] for i in ids.tolist())
