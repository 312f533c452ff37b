"""Text of models over symbols: characters to symbols and back, checks of a prompt, the choice of the next symbol.

A symbol is an integer in 0..V-1, wherever this package says symbol. The list `symbols` of a model names the character
that each of them stands for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hbll_seq.errors import InputError

Encode = Callable[[str], Tensor]
Decode = Callable[[Tensor], str]


class SymbolText:
    """Mixed into models over symbols, so that they read and write text.

    Attributes:
        symbols: the V characters in order, symbol i standing for `symbols[i]`; or None.
    """

    symbols: list[str] | None

    def name_symbols(self, symbols: list[str] | None, vocab_size: int) -> None:
        """Keep the list of characters; refuse one that does not have V of them."""
        if symbols is not None and len(symbols) != vocab_size:
            raise InputError("symbols", f"{len(symbols)} characters", f"{vocab_size}, one a symbol")
        self.symbols = symbols

    def begin(self, prompt: str | Tensor, length: int, temperature: float, encode: Encode | None = None) -> Tensor:
        """Check the arguments of `generate` and return the prompt as a 1-D tensor of symbols."""
        if length < 1:
            raise InputError("length", length, "an integer >= 1")
        if temperature < 0:
            raise InputError("temperature", temperature, "a number >= 0")
        ids = (encode or self._encode)(prompt) if isinstance(prompt, str) else prompt
        if ids.ndim != 1 or ids.numel() == 0:
            raise InputError("prompt", f"shape {tuple(ids.shape)}", "at least one symbol")
        return ids

    def finish(self, ids: Tensor, prompt: str | Tensor, decode: Decode | None = None) -> str | Tensor:
        """Turn symbols back into text where the prompt was text."""
        return (decode or self._decode)(ids) if isinstance(prompt, str) else ids

    @staticmethod
    def pick(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
        """Choose one symbol from logits `(V,)`: the most likely at temperature 0, else drawn."""
        if temperature == 0:
            return int(logits.argmax())
        p = torch.softmax(logits.cpu() / temperature, 0)
        return int(torch.multinomial(p, 1, generator=generator)[0])

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
