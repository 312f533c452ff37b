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
