"""Texts: whole, decodable, and their bits by other compressors."""

import hashlib
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hbll_seq import datasets
from hbll_seq.datasets import Text, shakespeare
from hbll_seq.datasets.python_text import ascii_only
from hbll_seq.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")


def test_pydoc_is_whole_ascii_and_decodes_back():
    from pydoc_data.topics import topics

    text = datasets.load("pydoc")
    whole = torch.cat([text.train, text.valid, text.test])
    assert whole.dtype == torch.int64 and int(whole.max()) < text.vocab_size
    back = text.decode(whole)
    assert back.isascii() and hashlib.sha256(back.encode()).hexdigest() == text.sha256
    assert back.startswith(ascii_only(topics[min(topics)])) and back.endswith(ascii_only(topics[max(topics)]))
    assert len(text.train) == len(back) * 90 // 100 and abs(len(text.valid) - len(text.test)) <= 1
    assert "CPython" in text.source and text.sha256 == datasets.load("pydoc").sha256
    assert torch.equal(text.encode(back[:500]), text.train[:500])


def test_bits_per_character_of_pydoc():
    text = datasets.load("pydoc")
    bits = text.bits_per_character()
    counts, held_out = Counter(text.train.tolist()), text.valid.tolist()
    total = len(text.train) + text.vocab_size
    unigram = sum(-math.log2((counts[c] + 1) / total) for c in held_out) / len(held_out)
    assert bits["unigram"] == pytest.approx(unigram, abs=1e-9)
    # Having read `train` helps, and helps xz (8 MiB of memory) more than gzip (32 kB).
    assert bits["xz"] < bits["xz_alone"] and bits["gzip"] < bits["gzip_alone"]
    assert 1 < bits["xz"] < bits["gzip"] < bits["unigram"] < math.log2(text.vocab_size)


def test_stdlib_is_limited_and_repeatable():
    text = datasets.load("stdlib", limit_characters=50_000)
    assert len(text.train) + len(text.valid) + len(text.test) == 50_000
    assert text.sha256 == datasets.load("stdlib", limit_characters=50_000).sha256
    longer = datasets.load("stdlib", limit_characters=100_000)
    assert longer.decode(longer.train[:40_000]) == text.decode(text.train[:40_000])
    with pytest.raises(InputError, match="limit_characters"):
        datasets.load("stdlib", limit_characters=10)


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=20, max_size=200))
def test_any_text_encodes_and_decodes(string):
    text = Text.from_string(string)
    assert text.symbols == sorted(set(string))
    assert text.decode(text.encode(string)) == string
    assert text.decode(torch.cat([text.train, text.valid, text.test])) == string


def test_text_refuses_what_it_cannot_use():
    text = Text.from_string("abcd" * 10)
    with pytest.raises(InputError, match="'z' at character 2; expected one of the 4 symbols"):
        text.encode("abz")
    with pytest.raises(InputError, match="symbol numbers 0 .. 3"):
        text.decode(torch.tensor([0, 4]))
    with pytest.raises(InputError, match="integers of shape"):
        text.decode(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="at least 20"):
        Text.from_string("short")
    with pytest.raises(InputError, match="train_end"):
        Text.from_string("abcd" * 10, train_end=50)
    assert text.decode(torch.empty(0, dtype=torch.int64)) == "" and text.encode("").shape == (0,)


def test_ascii_only_spells_out():
    assert ascii_only("“Straße” – café… 3°") == '"Strasse" - cafe... 3?'


def test_tinyshakespeare_from_the_data_folder(real_data):
    folder = real_data("tinyshakespeare")
    text = datasets.load("tinyshakespeare")
    assert text.sha256 == shakespeare.SHA256 and text.vocab_size == 65
    assert (len(text.train), len(text.valid), len(text.test)) == (1_000_000, 115_394, 0)
    assert datasets.load("tinyshakespeare", path=folder).sha256 == text.sha256
    assert datasets.load("tinyshakespeare", path=folder / "input.txt").sha256 == text.sha256


def test_tinyshakespeare_missing_or_short(tmp_path):
    with pytest.raises(InputError, match="HBLL_SEQ_DATA not set.*download=True.*raw.githubusercontent"):
        datasets.load("tinyshakespeare")
    with pytest.raises(InputError, match="no file"):
        datasets.load("tinyshakespeare", path=tmp_path / "absent.txt", download=True)
    (tmp_path / "input.txt").write_text("too short")
    with pytest.raises(InputError, match="9 characters .*more than 1,000,000"):
        datasets.load("tinyshakespeare", path=tmp_path)
