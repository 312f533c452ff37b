"""PyTorch's names for arguments are understood by every recurrent model."""

import pytest
import torch

import hbll_seq as hs

MAKE = [
    lambda **o: hs.models.SequenceModel(5, 5, **o),
    lambda **o: hs.models.CharLM(5, **o),
    lambda **o: hs.models.LanguageModel(5, **o),
    lambda **o: hs.models.AudioClassifier(5, hs.audio.Frames(4), **o),
    lambda **o: hs.models.Transcriber("abc", hs.audio.LogMel(8000, mels=8), **o),
]


@pytest.mark.parametrize("make", MAKE)
def test_they_make_the_same_model(make, tmp_path):
    ours = make(hidden=6, layers=2, cell="elman").state_dict()
    model = make(hidden_size=6, num_layers=2, cell="rnn")
    theirs = model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    hs.save(model, tmp_path / "m")
    again = hs.load(tmp_path / "m").state_dict()
    assert all(torch.equal(again[k], ours[k]) for k in ours)


@pytest.mark.parametrize("make", MAKE)
def test_both_names_at_once_are_refused(make):
    with pytest.raises(hs.InputError, match="hidden_size: got 6 beside hidden=7; expected one of the two"):
        make(hidden=7, hidden_size=6)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: hs.models.LanguageModel(5, hidden=4, **options),
        lambda **options: hs.models.CharLM(5, hidden=4, **options),
        lambda **options: hs.models.WaveModel(8000, 16, hidden=4, **options),
        lambda **options: hs.models.AudioClassifier(3, hs.audio.Frames(4), hidden=4, **options),
        lambda **options: hs.models.AudioTagger(3, hs.audio.Frames(4), hidden=4, **options),
    ],
    ids=["LanguageModel", "CharLM", "WaveModel", "AudioClassifier", "AudioTagger"],
)
def test_options_that_a_model_decides_are_refused_by_name(make):
    plain = make()
    same = make(task=None, input_kind=plain.input_kind, output_size=plain.output_size, input_size=None)
    assert same.config() == plain.config()
    assert make(task=plain.task).config() == plain.config()
    for name, value in {"task": "never", "input_kind": "never", "output_size": 99, "input_size": 99}.items():
        with pytest.raises(hs.InputError, match=f"^{name}: got .*expected nothing"):
            make(**{name: value})
    with pytest.raises(hs.InputError, match="^hiden: got an option that the model does not have"):
        make(hiden=4)
