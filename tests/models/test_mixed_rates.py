"""Sounds that bring their rates: a list may have several, and every use hears them at the front end's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.audio import Frames, LogMel

RATE = 8000
MEL = LogMel(RATE, 12, 32, 16)


def tone(samples, rate, pitch=440.0):
    return 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(samples) / rate)


def transcriber(**options):
    return hs.models.Transcriber("abc", MEL, hidden=8, conv=((8, 3, 2),), **options)


@pytest.fixture
def files(tmp_path):
    """Files of three rates, and their sounds as `read` gives them: with rates, and all at the model's."""
    names = []
    for i, rate in enumerate((8000, 16000, 11025)):
        names.append(tmp_path / f"{i}.wav")
        hs.audio.write(names[-1], tone(rate // 2 + i, rate, 300.0 * 2**i), rate)
    return [hs.audio.read(one) for one in names], [hs.audio.read(one, RATE)[0] for one in names]


def test_all_that_a_transcriber_does_is_that_of_sounds_at_its_rate(files):
    pairs, waves = files
    texts, model = ["ab", "cab", "b"], transcriber(bidirectional=True)
    assert len({rate for _, rate in pairs}) == 3
    assert model.transcribe(pairs) == model.transcribe(waves)
    assert model.transcribe(pairs, beam_width=3) == model.transcribe(waves, beam_width=3)
    assert model.error_rate(pairs, texts) == model.error_rate(waves, texts)
    assert model.error_rate(pairs, texts) == hs.evaluate(model, pairs, texts)["error_rate"]
    assert model.align(pairs, texts) == model.align(waves, texts)
    assert all(torch.equal(a, b) for a, b in zip(model.encode(pairs), model.encode(waves), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(hs.predict(model, pairs), hs.predict(model, waves), strict=True))


@pytest.mark.parametrize("augment", [None, hs.audio.Augment(noise=(5, 30), bands=2)])
def test_training_on_mixed_rates_is_training_at_one(files, augment):
    pairs, waves = files
    trained = []
    for sounds in (pairs, waves, [pairs[0], waves[1], pairs[2]]):
        model = transcriber(augment=augment)
        hs.fit(model, sounds, ["ab", "cab", "b"], steps=3, batch_size=2, progress=False)
        trained.append(model.state_dict())
    for other in trained[1:]:
        assert all(torch.equal(trained[0][name], other[name]) for name in other)


def test_a_classifier_of_sounds_takes_them(files):
    pairs, waves = files
    for augment in (None, hs.audio.Augment(noise=(5, 30))):
        trained = []
        for sounds in (pairs, waves):
            model = hs.models.AudioClassifier(2, MEL, hidden=8, augment=augment)
            hs.fit(model, sounds, torch.tensor([0, 1, 0]), steps=2, batch_size=2, progress=False)
            trained.append(model)
        first, second = (hs.predict(model, sounds) for model, sounds in zip(trained, (pairs, waves), strict=True))
        assert torch.equal(first, second)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3000), st.sampled_from([4000, 8000, 11025, 16000, 44100]), st.sampled_from(["float", "int16"]))
def test_a_pair_is_as_long_as_it_lasts(samples, rate, kind):
    wave = tone(samples, rate)
    wave = wave if kind == "float" else (wave * 2**15).to(torch.int16)
    x, lengths = MEL([(wave, rate), (wave.numpy(), rate), (wave.tolist(), rate) if kind == "float" else (wave, rate)])
    found = -(-samples * RATE // rate)
    assert lengths.tolist() == [max(0, -(-(found - MEL.window) // MEL.hop)) + 1] * 3
    torch.testing.assert_close(x[0], x[1])
    torch.testing.assert_close(x[0], x[2])


def test_two_waves_are_a_list_and_a_single_pair_is_none():
    x, lengths = MEL(([0.5] * 900, [0.25] * 400))
    assert len(x) == 2 and lengths[0] > lengths[1]
    with pytest.raises(hs.InputError, match=r"waves: got one pair of samples and a rate.*\[\(samples, rate\)\]"):
        MEL((tone(4000, RATE), RATE))


def test_two_numbers_are_a_wave_and_no_pair():
    x, _ = MEL([(0.5, 0.25), np.array([0.5, 0.25]), (np.float32(0.5), np.float32(0.25))])
    assert torch.equal(x[0], x[1]) and torch.equal(x[0], x[2])


@pytest.mark.parametrize("front, sound, words", [
    (Frames(16), (tone(400, RATE), RATE), r"waves\[1\]: got a pair of samples and a rate.*no certain rate"),
    (MEL, (tone(400, RATE), 0), r"waves\[1\]\[1\]: got 0.*samples a second"),
    (MEL, (tone(400, RATE), 3), r"waves\[1\]\[1\]: got 3; expected samples a second.*no label"),
    (MEL, (tone(400, RATE), 8000.5), r"waves\[1\]\[1\]: got 8000.5"),
    (MEL, (torch.zeros(0), RATE), r"waves\[1\]: got shape \(0,\)"),
    (MEL, (torch.full((9,), torch.nan), RATE), r"waves\[1\]: got samples that are not finite"),
    (MEL, (torch.zeros(4, 2), RATE), r"waves\[1\]: got shape \(4, 2\)"),
])  # fmt: skip
def test_refusals_name_the_sound(front, sound, words):
    model = hs.models.Transcriber("abc", front, hidden=8)
    sounds = [tone(4000, RATE), sound]
    with pytest.raises(hs.InputError, match=words):
        hs.fit(model, sounds, ["ab", "b"], steps=1, progress=False)
    with pytest.raises(hs.InputError, match=words):
        model.error_rate(sounds, ["ab", "b"])
