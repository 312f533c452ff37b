"""A module that a file cannot rebuild is loaded into another of its kind."""

import pytest
import torch
from runs import lm

import hbll_seq as hs


class Doubled(hs.audio.Frames):
    """A front end of the user's."""

    def steps(self, wave):
        return 2 * super().steps(wave)


def test_a_front_end_of_ones_own_is_not_forgotten(tmp_path):
    def tagged(seed):
        return hs.models.AudioClassifier(3, Doubled(4), hidden=4, seed=seed)

    hs.save(tagged(0), tmp_path / "f")
    with pytest.raises(hs.InputError, match="into: got None, .* weights of a AudioClassifier"):
        hs.load(tmp_path / "f")  # it had another front end, or was refused after the model was gone
    other = hs.load(tmp_path / "f", into=tagged(1))
    waves = [torch.rand(n) - 0.5 for n in (40, 17)]
    assert torch.equal(hs.predict(other, waves), hs.predict(tagged(0), waves))
    assert not torch.equal(hs.predict(other, waves), hs.predict(tagged(1), waves))
    assert torch.equal(other.readout.weight, tagged(0).readout.weight) and type(other.front) is Doubled


def test_what_cannot_be_rebuilt_is_loaded_into_a_module_of_its_kind(tmp_path):
    def adopted(seed, units=4):
        torch.manual_seed(seed)
        return hs.models.SequenceModel(5, 5, cell=torch.nn.GRU(units, units, batch_first=True))

    def own(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.BatchNorm1d(3)).double()  # with an int64 buffer

    for make in (adopted, own):
        model, other, file = make(0), make(1), tmp_path / "f"
        hs.save(model, file)
        with pytest.raises(
            hs.InputError, match=rf"into: got None, .* weights of a {type(model).__name__}; expected such"
        ):
            hs.load(file)
        assert hs.load(file, into=other) is other
        for k, v in model.state_dict().items():
            assert torch.equal(v, other.state_dict()[k]) and v.dtype == other.state_dict()[k].dtype
    hs.save(adopted(0), file)
    wrong = adopted(2, units=3)
    before = {k: v.clone() for k, v in wrong.state_dict().items()}
    with pytest.raises(hs.InputError, match="whose tensor .* is shape .*, as in the module"):
        hs.load(file, into=wrong)
    assert all(torch.equal(v, before[k]) for k, v in wrong.state_dict().items())
    hs.save(lm(), file)  # a model of this package can be loaded both ways
    assert torch.equal(hs.load(file).readout.weight, hs.load(file, into=lm(seed=5)).readout.weight)
    for call, says in [
        (lambda: hs.save({"a": 1}, file), "model: got dict; expected a module"),
        (lambda: hs.load(file, into={}), "into: got dict; expected a module"),
    ]:
        with pytest.raises(hs.InputError, match=says):
            call()
