"""`CharLM`: a language model over characters (or any symbols), with generation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember


@remember
class CharLM(SequenceModel):
    """Next-symbol model.

    Args:
        vocab_size: number of symbols V.
        symbols: the V characters, in order, so that `generate` can take and give text; optional.
        options: as for `SequenceModel` (hidden, cell, layers, timescale, seed, ...).
    """

    def __init__(self, vocab_size: int, *, symbols: list[str] | None = None, **options: Any) -> None:
        super().__init__(vocab_size, vocab_size, task="next", **options)
        if symbols is not None and len(symbols) != vocab_size:
            raise InputError("symbols", f"{len(symbols)} characters", f"{vocab_size}, one a symbol")
        self.symbols = symbols
        if self._config is not None:
            self._config = {"vocab_size": vocab_size, "symbols": symbols, **options}

    @torch.no_grad()
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
        """Continue `prompt` by `length` symbols, streaming in constant memory.

        Args:
            prompt: text (needs `symbols` or `encode`/`decode`) or a 1-D int64 tensor.
            length: symbols to add, >= 1.
            temperature: 0 takes the most likely symbol, 1 samples from the model as it is.
            seed: of the sampling; the global random state is not touched.
            encode, decode: text to tensor and back, where the model has no `symbols`.

        Returns:
            Prompt and continuation, as text or as a tensor, whichever the prompt was.
        """
        if length < 1:
            raise InputError("length", length, "an integer >= 1")
        if temperature < 0:
            raise InputError("temperature", temperature, "a number >= 0")
        ids = (encode or self._encode)(prompt) if isinstance(prompt, str) else prompt
        if ids.ndim != 1 or ids.numel() == 0:
            raise InputError("prompt", f"shape {tuple(ids.shape)}", "at least one symbol")
        generator = torch.Generator().manual_seed(seed)
        device = next(self.parameters()).device
        out, state = ids.tolist(), None
        for symbol in ids:
            logits, state = self.step(symbol.view(1).to(device), state)
        for _ in range(length):
            if temperature == 0:
                symbol = logits[0].argmax()
            else:
                p = torch.softmax(logits[0].cpu() / temperature, 0)
                symbol = torch.multinomial(p, 1, generator=generator)[0]
            out.append(int(symbol))
            logits, state = self.step(symbol.view(1).to(device), state)
        result = torch.tensor(out)
        return (decode or self._decode)(result) if isinstance(prompt, str) else result

    def _encode(self, text: str) -> Tensor:
        if self.symbols is None:
            raise InputError("prompt", "text, but the model has no symbols", "a tensor, or CharLM(..., symbols=...)")
        index = {s: i for i, s in enumerate(self.symbols)}
        unknown = sorted(set(text) - set(index))
        if unknown:
            raise InputError("prompt", f"characters {unknown}", "characters among the model's symbols")
        return torch.tensor([index[s] for s in text], dtype=torch.int64)

    def _decode(self, ids: Tensor) -> str:
        assert self.symbols is not None
        return "".join(self.symbols[i] for i in ids.tolist())


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
