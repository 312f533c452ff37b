"""Tokenizers by name, from objects of other packages, and from saved models."""

from typing import Any

from hbll_seq.data.scalars import shown
from hbll_seq.errors import InputError
from hbll_seq.text.base import Tokenizer
from hbll_seq.text.bpe import BPETokenizer
from hbll_seq.text.byte import ByteTokenizer
from hbll_seq.text.character import CharTokenizer
from hbll_seq.text.outside import OutsideTokenizer
from hbll_seq.text.words import WordTokenizer

FORMS = '"char", "byte", "word", "word:5000", "bpe:1000" (any number of symbols), or an object with encode and decode'


def as_tokenizer(value: Any) -> Tokenizer:
    """Return a tokenizer that needs no text to be made: one of this package, "byte", or an object of another package.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, Tokenizer):
        return value
    if isinstance(value, str):
        if value == "byte":
            return ByteTokenizer()
        raise InputError(
            "tokenizer", repr(value), '"byte", or a tokenizer: hs.datasets.text(..., tokenizer=...) has it'
        )
    return OutsideTokenizer(value)


def made_for(value: Any, whole: str, train: str) -> Tokenizer:
    """Make the tokenizer of a text.

    Args:
        value: "char", "byte", "word" (those that occur twice), "word:V", "bpe:V", a tokenizer, or an object of another
            package.
        whole: the text; "char" has all its characters, so that no part has an unknown one.
        train: its training part; "word", "word:V" and "bpe:V" learn from it alone.

    Raises:
        InputError: anything else.
    """
    if value == "char":
        return CharTokenizer.of(whole)
    if value == "word":
        return WordTokenizer.train(train)
    if isinstance(value, str) and value.startswith(("bpe:", "word:")):
        kind, _, size = value.partition(":")
        size = size.replace("_", "").replace(",", "")
        if not (size.isascii() and size.isdigit()):
            raise InputError("tokenizer", repr(value), FORMS)
        return (BPETokenizer if kind == "bpe" else WordTokenizer).train(train, int(size))
    if isinstance(value, str) and value != "byte":
        raise InputError("tokenizer", repr(value), FORMS)
    if value is None or isinstance(value, int | float):
        raise InputError("tokenizer", shown(value), FORMS)
    return as_tokenizer(value)


def from_config(config: Any, given: Any = None) -> Tokenizer:
    """Rebuild a tokenizer from its `config`.

    Args:
        config: what `Tokenizer.config` returned.
        given: the tokenizer of another package that `config` only names, or None.

    Raises:
        InputError: another config, or one that only names a tokenizer, without `given`.
    """
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind == CharTokenizer.kind:
        return CharTokenizer(config.get("symbols"))
    if kind == ByteTokenizer.kind:
        return ByteTokenizer()
    if kind == BPETokenizer.kind:
        return BPETokenizer(config.get("model"))
    if kind == WordTokenizer.kind:
        return WordTokenizer(config.get("words"))
    if kind != OutsideTokenizer.kind:
        raise InputError(
            "tokenizer", f"a saved tokenizer of kind {kind!r}", '"char", "byte", "bpe", "word" or "outside"'
        )
    if given is None:
        came = f"None for a model with a tokenizer of another package, {config.get('name')}"
        raise InputError("tokenizer", came, "that object: hs.load(path, tokenizer=...)")
    made = as_tokenizer(given)
    if made.vocab_size != config.get("vocab_size"):
        raise InputError("tokenizer", f"one of {made.vocab_size} symbols", f"{config.get('vocab_size')}, the model's")
    return made
