"""`CharLM`: a language model over characters (or any symbols), with generation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.errors import InputError
from hbll_seq.models.continuation import continued
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember
from hbll_seq.models.sampler import Sampler
from hbll_seq.models.symbol_text import SymbolText


@remember
class CharLM(SymbolText, SequenceModel):
    """A recurrent model of the next symbol.

    Args:
        vocab_size: number of symbols V.
        symbols: the V characters, in order; optional. With them `generate` reads and returns text.
        options: as for `SequenceModel` (hidden, cell, layers, timescale, dropout, norm, seed, ...).
    """

    def __init__(self, vocab_size: int, *, symbols: list[str] | None = None, **options: Any) -> None:
        super().__init__(vocab_size, vocab_size, task="next", **options)
        self.name_symbols(symbols, vocab_size)
        if self._config is not None:
            self._config = {"vocab_size": vocab_size, "symbols": symbols, **options}

    def generate(
        self,
        prompt: str | Tensor,
        length: int,
        *,
        temperature: float = 0.8,
        seed: int = 0,
        encode: Callable[[str], Tensor] | None = None,
        decode: Callable[[Tensor], str] | None = None,
    ) -> str | Tensor:
        """Continue `prompt` by `length` symbols, one by one in constant memory.

        Args:
            prompt: text (needs `symbols` or `encode`/`decode`) or a 1-D tensor, array or list of symbols.
            length: symbols to add, >= 1.
            temperature: 0 takes the most likely symbol, 1 samples from the model's distribution.
            seed: seed of the sampling; the global random state is not touched.
            encode: function from text to tensor, for a model without `symbols`.
            decode: function from tensor to text, likewise.

        Returns:
            Prompt and continuation: text for a text prompt, otherwise an int64 tensor.

        Raises:
            InputError: a prompt that the model cannot read, or another argument out of range.
        """
        for name, given in (("encode", encode), ("decode", decode)):
            if given is not None and not callable(given):
                raise InputError(name, type(given).__name__, "a function, or None")
        if isinstance(prompt, str) and self.symbols is None and None in (encode, decode):
            raise InputError("prompt", "text, but the model has no symbols", "a tensor, or encode= and decode=")
        ids = self.begin(prompt, length, encode)
        with torch.no_grad():  # also puts the mode back if an interrupt keeps an inner one from doing so
            out = [*ids.tolist(), *continued(self, ids, length, Sampler(temperature, seed))]
        return self.finish(torch.tensor(out), prompt, decode)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable values in `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
