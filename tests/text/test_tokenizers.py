"""Tokenizers: what is encoded decodes back, whole or a symbol at a time; training is repeatable; saved as plain data."""

import json
import pickle
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbll_seq.errors import InputError
from hbll_seq.text import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    OutsideTokenizer,
    WordTokenizer,
    as_tokenizer,
    bpe,
    from_config,
    made_for,
)

TEXT = "the cat sat on the mat.\nthe rat\n\n  sat on the cat's hat: naïve 日本 🙂\n" * 6
BPE = BPETokenizer.train(TEXT, 280)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


class Words:
    """A tokenizer of another package: words, decoded without the space before the first."""

    vocab = ["the", "cat", "sat", "on"]

    def encode(self, text):
        return [self.vocab.index(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(self.vocab[i] for i in ids)

    def __len__(self):
        return len(self.vocab)


class Encoded:
    def __init__(self, ids):
        self.ids = ids


class Bytes:
    """Another package's byte tokenizer: `encode` returns an object with `ids`."""

    n_vocab = 256

    def encode(self, text):
        return Encoded(list(text.encode()))

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")


ALL = {
    "char": lambda text: CharTokenizer.of(text + "x"),
    "byte": lambda text: ByteTokenizer(),
    "bpe": lambda text: BPE,
    "word": lambda text: WordTokenizer.train(text, 1000),
    "outside": lambda text: OutsideTokenizer(Bytes()),
}


@pytest.mark.parametrize("kind", ALL)
@given(text=texts)
def test_a_text_decodes_back_whole_and_in_pieces(kind, text):
    made = ALL[kind](text)
    symbols = made.encode(text)
    assert symbols.dtype == made.dtype and symbols.ndim == 1
    assert not len(symbols) or 0 <= int(symbols.min()) <= int(symbols.max()) < made.vocab_size
    assert made.decode(symbols) == text and made.bytes_of(symbols) == len(text.encode())
    assert "".join(made.pieces(symbols.tolist())) == text


@given(st.lists(st.integers(0, 255), max_size=30))
def test_bytes_that_are_no_text_come_as_whole_characters(numbers):
    made = ByteTokenizer()
    assert made.decode(numbers) == bytes(numbers).decode("utf-8", "replace")
    assert "".join(made.pieces(numbers)) == made.decode(numbers)


def test_a_character_comes_when_it_is_complete():
    for made in (ByteTokenizer(), OutsideTokenizer(Bytes())):
        assert [one for one in made.pieces(made.encode("é€🙂").tolist()) if one] == ["é", "€", "🙂"]
        assert "".join(made.pieces(list("a€".encode())[:-1])) == "a\ufffd"


def test_bpe_is_the_packages_own_and_repeatable(monkeypatch):
    tokenizers = pytest.importorskip("tokenizers")
    again = BPETokenizer.train(TEXT, 280)
    assert again.config() == BPE.config() and BPE.vocab_size == 280
    theirs = tokenizers.Tokenizer.from_str(BPE.config()["model"])
    ids = theirs.encode(TEXT).ids
    assert BPE.encode(TEXT).tolist() == ids and BPE.decode(ids) == theirs.decode(ids) == TEXT
    monkeypatch.setattr(bpe, "PIECE", 20)
    assert again.encode(TEXT).tolist() == ids, "a long text is encoded in pieces"
    assert len(ids) < len(TEXT.encode()) / 1.5


def test_bpe_without_the_package_decodes_and_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    made = from_config(BPE.config())
    assert made.decode(torch.arange(256, 280)) == BPE.decode(torch.arange(256, 280))
    with pytest.raises(ImportError, match=r"byte-pair encoding needs tokenizers.*pip install 'hbll_seq\[text\]'"):
        made.encode("the")
    with pytest.raises(ImportError, match=r"byte-pair encoding needs tokenizers.*pip install 'hbll_seq\[text\]'"):
        BPETokenizer.train(TEXT, 280)


@pytest.mark.parametrize("made", [CharTokenizer("abc"), ByteTokenizer(), BPE], ids=lambda one: one.kind)
def test_saved_as_json_and_by_pickle(made):
    for again in (from_config(json.loads(json.dumps(made.config()))), pickle.loads(pickle.dumps(made))):
        assert again.vocab_size == made.vocab_size and torch.equal(again.encode("abc"), made.encode("abc"))
        assert again.decode([2, 0, 1]) == made.decode([2, 0, 1]) and again.portable


def test_a_tokenizer_of_another_package():
    made = as_tokenizer(Words())
    assert made.vocab_size == 4 and made.encode("the cat").tolist() == [0, 1] and made.decode([2, 3]) == "sat on"
    assert list(made.pieces([0, 1, 2])) == ["the", " cat", " sat", ""]
    assert not made.portable and made.config()["name"].endswith("Words")
    again = from_config(made.config(), Words())
    assert again.decode([1]) == "cat"
    with pytest.raises(InputError, match="tokenizer: got None for a model with a tokenizer of another package.*Words"):
        from_config(made.config())
    with pytest.raises(InputError, match="one of 256 symbols; expected 4"):
        from_config(made.config(), Bytes())
    assert OutsideTokenizer(Bytes()).encode("é").tolist() == [195, 169]
    with pytest.raises(InputError, match="symbols in 0..195 from encode"):
        OutsideTokenizer(Bytes(), vocab_size=10).encode("é\0")


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: CharTokenizer("abc").encode("abz"), "'z' at character 2; expected one of the 3 symbols"),
        (lambda: CharTokenizer([]), "symbols: got none"),
        (lambda: CharTokenizer([1]), "symbols: got list"),
        (lambda: CharTokenizer(["<pad>"]).encode("a"), "'a' at character 0"),
        (lambda: CharTokenizer("abc").decode([3]), "symbol numbers 0 .. 2"),
        (lambda: CharTokenizer("abc").decode([[0]]), "integers of shape"),
        (lambda: ByteTokenizer().encode("a\ud800"), "a lone surrogate at character 1"),
        (lambda: ByteTokenizer().encode(5), "text: got int; expected a string"),
        (lambda: BPETokenizer.train(TEXT, 100), "vocab_size: got 100; expected an integer in 257"),
        (lambda: BPETokenizer("{}"), "model: got no JSON of a byte-level BPE"),
        (lambda: BPETokenizer('{"model": {"type": "BPE", "vocab": {"a": 7}, "merges": []}}'), "no JSON of a byte-level"),
        (lambda: made_for("words", "abc", "a"), "tokenizer: got 'words'; expected \"char\""),
        (lambda: made_for("word:many", "abc", "a"), "tokenizer: got 'word:many'"),
        (lambda: WordTokenizer(["a", "<unk>"]), "words: got 2 words"),
        (lambda: WordTokenizer(["<unk>", 3]), "words: got list"),
        (lambda: WordTokenizer.train("a b", 1), "vocab_size: got 1"),
        (lambda: WordTokenizer.train("a b"), "text: got 2 words, none of them twice; expected a longer text, or a vocab"),
        (lambda: made_for("bpe:many", "abc", "a"), "tokenizer: got 'bpe:many'"),
        (lambda: made_for(None, "abc", "a"), "tokenizer: got None"),
        (lambda: as_tokenizer("char"), "tokenizer: got 'char'"),
        (lambda: as_tokenizer(object()), "an object with encode"),
        (lambda: OutsideTokenizer(type("T", (), {"encode": print, "decode": print})()), "vocab_size: got None"),
        (lambda: from_config({"kind": "mine"}), "a saved tokenizer of kind 'mine'"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_tokenizer_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_characters_in_any_order_and_longer_symbols():
    made = CharTokenizer(["<s>", "b", "a", "é"])
    assert made.encode("abé").tolist() == [2, 1, 3] and made.decode([0, 2]) == "<s>a"
    assert made.bytes_of(torch.tensor([0, 3])) == 5


def test_words_are_the_frequent_ones_of_the_training_part():
    made = made_for("word:4", "unseen", " a b a b b c")
    assert made.words == ["<unk>", " b", " a", " c"], "most frequent first, then in order"
    assert made.encode("a b c d").tolist() == [0, 1, 3, 0] and made.decode([1, 0]) == " b<unk>"
    assert made_for("word", "", "a b a b b").words == ["<unk>", " b"]
    assert from_config(json.loads(json.dumps(made.config()))).words == made.words
    with pytest.raises(InputError, match="text: got int"):
        made.encode(3)


def test_a_character_twice_is_refused_by_name():
    with pytest.raises(InputError, match="symbols: got 'a' at 0, 1; expected every character once"):
        CharTokenizer("aab")
    with pytest.raises(InputError, match="'<pad>' at 0, 2"):
        CharTokenizer(["<pad>", "a", "<pad>"])
