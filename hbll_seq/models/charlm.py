"""`CharLM`: a language model over characters (or any symbols), made from their number."""

from typing import Any

from torch import nn

from hbll_seq.data.scalars import integer
from hbll_seq.models.language import LanguageModel
from hbll_seq.models.registry import remember
from hbll_seq.text import from_config


@remember
class CharLM(LanguageModel):
    """A language model over characters: the form of `LanguageModel` that takes their number.

    Args:
        vocab_size: number of symbols V.
        symbols: the V characters, in order; optional. With them `generate` reads and returns text.
        options: as for `SequenceModel` (hidden, cell, layers, timescale, dropout, norm, tie_weights, seed, ...).
    """

    def __init__(self, vocab_size: int, *, symbols: list[str] | None = None, **options: Any) -> None:
        vocab_size = integer("vocab_size", vocab_size)
        self._start(vocab_size, options)
        self.name_symbols(symbols, vocab_size)
        if self._config is not None:
            self._config = {"vocab_size": vocab_size, "symbols": symbols, **self._options}

    @classmethod
    def from_config(cls, config: dict[str, Any], tokenizer: Any = None) -> "CharLM":
        """Rebuild from `config()`. See `LanguageModel.from_config`."""
        config = dict(config)
        saved = config.pop("tokenizer", None)
        if saved is None:
            return cls(**config)
        if not isinstance(saved, dict):  # after `keep_tokenizer`
            return cls(saved, **config)
        made = from_config(saved, tokenizer)
        model = cls(made.vocab_size, **config)
        model.keep_tokenizer(made)
        return model


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable values in `model`."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
