"""`BPETokenizer`: byte-pair encoding, trained on a text of the user's by the package `tokenizers`.

Its symbols are strings of bytes (Sennrich et al. 2016, over bytes as in GPT-2): any text can be read. The package is
needed to train and to encode; a saved model decodes without it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError
from hbll_seq.optional import optional
from hbll_seq.text.base import check_text
from hbll_seq.text.byte import BytesTokenizer, utf8

PIECE = 1 << 18  # characters encoded at a time: the package keeps some 100 bytes for each symbol of a call
LARGEST = 1 << 22
# where a cut changes nothing: the pre-tokenizer joins a word to one space before it, and to nothing else
_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")


def _package() -> Any:
    return optional("tokenizers", "text", "byte-pair encoding")


class BPETokenizer(BytesTokenizer):
    """Byte-pair encoding over bytes.

    Args:
        model: the tokenizer as JSON of the package `tokenizers`, with a byte-level BPE and nothing beside it.

    Raises:
        InputError: another JSON.
    """

    kind = "bpe"
    dtype = torch.int32

    def __init__(self, model: str) -> None:
        self._model = check_text(model, "model")
        self._encoder: Any = None
        try:
            made = json.loads(model)
            vocabulary, merges = made["model"]["vocab"], made["model"]["merges"]
            listed = [""] * len(vocabulary)
            for word, place in vocabulary.items():
                listed[place] = word
            if made["model"]["type"] != "BPE" or made["decoder"]["type"] != "ByteLevel" or made["added_tokens"]:
                raise ValueError("another model or decoder, or tokens beside the model's")
            points = _byte_of_character()
            table = [bytes([points[c] for c in word]) for word in listed]
            if b"" in table or len(merges) > len(table):
                raise ValueError("symbols without text, or more merges than symbols")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            came = f"no JSON of a byte-level BPE ({type(error).__name__}: {error})"
            raise InputError("model", came, "what BPETokenizer.train(...).config() has") from error
        super().__init__(table)

    @classmethod
    def train(cls, text: str, vocab_size: int) -> "BPETokenizer":
        """Learn the most frequent pairs of a text.

        Args:
            text: what to learn from: the training part alone.
            vocab_size: number of symbols V, from 257: the 256 bytes and merged pairs. A short text may have fewer.

        Raises:
            InputError: an argument out of range.
            ImportError: the package `tokenizers` is absent.
        """
        size = integer("vocab_size", vocab_size, least=257, most=LARGEST)
        utf8(text)
        package = _package()
        made = package.Tokenizer(package.models.BPE())
        made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size, show_progress=False, initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet()
        )
        made.train_from_iterator(_cut(text), trainer=trainer)
        return cls(made.to_str())

    def encode(self, text: str) -> Tensor:
        """See `Tokenizer`.

        Raises:
            InputError: no text, or a lone surrogate in it.
            ImportError: the package `tokenizers` is absent.
        """
        utf8(text)
        if self._encoder is None:
            self._encoder = _package().Tokenizer.from_str(self._model)
        parts = [torch.tensor(self._encoder.encode(one).ids, dtype=self.dtype) for one in _cut(text)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self.dtype)

    def config(self) -> dict[str, Any]:
        """See `Tokenizer`."""
        return {"kind": self.kind, "model": self._model}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the package's object, which is made again."""
        return {**vars(self), "_encoder": None}


def _cut(text: str) -> Iterator[str]:
    """Cut a text into pieces that are encoded alone as they are together."""
    start = 0
    while len(text) - start > PIECE:
        found = _CUT.search(text, start + PIECE)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    if start < len(text):
        yield text[start:]


def _byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    GPT-2's alphabet: a printable byte is its own Latin-1 character, the others are those from U+0100 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(others)}
