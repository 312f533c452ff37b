"""Sets with transcripts: melodies and strings of digits; who is in which part, what they sound like, refusals."""

import pytest
import torch
from shared_fixtures import write_wave

from hbll_seq import datasets
from hbll_seq.errors import InputError


@pytest.fixture
def takes(tmp_path):
    """Three speakers, two digits, twelve takes: every sample of a file tells speaker, digit and take."""
    for s, speaker in enumerate(("ann", "bob", "cy")):
        for digit in (0, 1):
            for take in range(12):
                write_wave(tmp_path / f"{digit}_{speaker}_{take}.wav", [1000 + 100 * s + 20 * digit + take] * 50)
    return tmp_path


def load(takes, **options):
    return datasets.load("digitwords", path=takes, **{"n": 40, "n_validation": 12, "n_test": 12, "noise": 0, **options})


def test_melodies_are_a_function_of_the_seed():
    first, again, other = (datasets.load("melodies", n=6, n_validation=2, n_test=3, seed=k) for k in (1, 1, 2))
    assert first.train.transcripts == again.train.transcripts != other.train.transcripts
    assert all(torch.equal(a, b) for a, b in zip(first.test.waves, again.test.waves, strict=True))
    assert [len(part.waves) for part in first[:3]] == [len(part.transcripts) for part in first[:3]] == [6, 2, 3]


@pytest.mark.parametrize("name", ["melodies", "digitwords", "digitstrings", "tones", "adding"])
def test_made_numbers_do_not_depend_on_the_default_dtype(takes, name):
    options = {"path": takes, "held_out": "bob"} if name.startswith("digit") else {}
    if name in ("melodies", "digitwords"):
        options |= {"n_validation": 1}
    if name not in ("tones", "adding"):
        options |= {"n_test": 1}

    def made():
        found = datasets.load(name, n=3, **options)
        if name in ("melodies", "digitwords"):
            return found.train.waves
        return [found.train_x if name == "digitstrings" else found.x]

    default, single = torch.get_default_dtype(), made()
    try:
        torch.set_default_dtype(torch.float64)
        double = made()
    finally:
        torch.set_default_dtype(default)
    assert len(single) == len(double) and single[0].dtype == double[0].dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(single, double, strict=True))


def test_melodies_say_what_they_play():
    data = datasets.load("melodies", n=60, n_validation=1, n_test=1, noise=0)
    for wave, text in zip(*data.train, strict=True):
        assert 3 <= len(text) <= 8 and set(text) <= set(data.labels)
        assert wave.dtype == torch.float32 and 0.01 < float(wave.abs().max()) <= 1
        assert 0.1 * len(text) <= len(wave) / data.rate <= 0.5 * len(text) + 0.2
    single = data.train.waves[0]
    spectrum = torch.fft.rfft(single, n=data.rate).abs()
    assert 240 <= int(spectrum[200:520].argmax()) + 200 <= 520  # hertz of the scale's fundamentals


def test_digit_strings_hold_out_a_speaker(takes):
    data = load(takes, held_out="bob")
    assert [len(part.waves) for part in data[:3]] == [40, 12, 12]
    for part in data[:3]:
        for wave, text in zip(*part, strict=True):
            assert 3 <= len(text) <= 7 and set(text) <= set("01")
            loud = wave[wave != 0]
            assert len(loud) == 50 * len(text)  # every digit whole, between silences
            torch.testing.assert_close(loud, torch.full_like(loud, 0.1))  # at one level
            assert wave[0] == wave[-1] == 0
    other = load(takes, held_out="bob", validation="ann")
    assert len(other.validation.waves) == 12 and "bob" in other.source


def test_no_take_is_in_two_parts(takes, monkeypatch):
    """Levels would hide who speaks: keep them."""
    monkeypatch.setattr("hbll_seq.datasets.digit_words._take", lambda r: torch.full((50,), _code(r)))

    def heard(part):
        return {int(v) for wave in part.waves for v in wave.unique() if v}

    for held_out, validation in (("bob", None), ("bob", "cy"), (None, None), (None, "ann")):
        data = load(takes, held_out=held_out, validation=validation)
        train, valid, test = (heard(part) for part in data[:3])
        assert not train & valid and not train & test and not valid & test
        speakers = [{code // 10_000 for code in codes} for codes in (train, valid, test)]
        if held_out:
            assert speakers[2] == {1} and 1 not in speakers[0] | speakers[1]
        if validation:
            assert len(speakers[1]) == 1 and not speakers[1] & (speakers[0] | speakers[2])
        if held_out is None:
            assert {code % 100 for code in test} <= set(range(1, 6)) and min(code % 100 for code in train) > 5


def _code(recording):
    return float(10_000 * ("ann", "bob", "cy").index(recording.speaker) + 100 * recording.digit + recording.take + 1)


def test_strings_are_of_one_speaker(takes, monkeypatch):
    monkeypatch.setattr("hbll_seq.datasets.digit_words._take", lambda r: torch.full((50,), _code(r)))
    for wave in load(takes, held_out=None).train.waves:
        assert len({int(v) // 10_000 for v in wave.unique() if v}) == 1


@pytest.mark.parametrize("options, words", [
    ({"held_out": "eve"}, "held_out"), ({"held_out": None, "validation": "eve"}, "validation"), ({"n": 0}, "n: "), ({"noise": -1}, "noise"),
    ({"held_out": "bob", "validation": "bob"}, "held_out"), ({"seed": 0.5}, "seed"),
])  # fmt: skip
def test_refusals(takes, options, words):
    with pytest.raises(InputError, match=words):
        load(takes, **options)
    with pytest.raises(InputError, match="n_test"):
        datasets.load("melodies", n_test=0)
    with pytest.raises(InputError, match="seed"):
        datasets.load("melodies", seed="one")


def test_one_line_says_what_there_is():
    text = repr(datasets.load("melodies", n=4, n_validation=1, n_test=1))
    assert text.startswith("Speech(") and "\n" not in text and "train 4" in text and "cdefgab" in text
