"""Programs of `torch.export` run any number of sequences of any length, as the model does."""

import pytest
import torch
from torch import nn

import hbll_seq as hs


class Decay(nn.Module):
    """A cell of the user's."""

    hidden_size = input_size = 4

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, h):
        return torch.tanh(x + self.rate * h)


def loaded(model, path, **options):
    hs.export(model, path, **options)
    return torch.export.load(path).module()


@pytest.mark.parametrize(
    "cell", ["gru", pytest.param("lstm", marks=pytest.mark.slow), pytest.param("elman", marks=pytest.mark.slow), "own"]
)
def test_a_whole_model_of_any_length(cell, tmp_path):
    model = hs.models.SequenceModel(5, 7, hidden=8, cell=Decay() if cell == "own" else cell, input_kind="symbols")
    whole = loaded(model, tmp_path / "m.pt2", check=False)
    for b, t in [(1, 1), (4, 9), (2, 1000)]:
        x = torch.randint(5, (b, t))
        with torch.no_grad():
            torch.testing.assert_close(whole(x), model.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "mingru"])
def test_both_directions_of_unequal_lengths(cell, tmp_path):
    model = hs.models.SequenceModel(
        5, 7, hidden=8, cell=cell, layers=2, bidirectional=True, task="sequence", input_kind="features", norm="layer"
    ).eval()
    whole = loaded(model, tmp_path / "m.pt2")
    for lengths in ([1], [5, 2, 4], [300, 1]):
        x, lengths = torch.randn(len(lengths), max(lengths), 5), torch.tensor(lengths)
        with torch.no_grad():
            torch.testing.assert_close(whole(x, lengths), model(x, lengths), rtol=1e-5, atol=1e-5)


def test_step_by_step(tmp_path):
    model = hs.models.SequenceModel(5, 7, hidden=8, cell="lstm", layers=2, input_kind="features", residual=True).eval()
    step, x = loaded(model, tmp_path / "m.pt2", part="step"), torch.randn(3, 20, 5)
    states, outputs = [torch.zeros(3, c.state_size) for c in model.cells], []
    with torch.no_grad():
        for now in x.unbind(1):
            out, states = step(now, states)
            outputs.append(out)
        torch.testing.assert_close(torch.stack(outputs, 1), model(x), rtol=1e-5, atol=1e-5)


def test_a_bare_layer_has_no_program(tmp_path):
    with pytest.raises(hs.InputError, match="model: got GRU; expected a recurrent model of hbll_seq.models; for other"):
        hs.export(nn.GRU(3, 4), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_one_target_a_sequence(tmp_path):
    model = hs.models.SequenceModel(3, 2, hidden=4, cell="mingru", task="sequence", input_kind="features").eval()
    whole = loaded(model, tmp_path / "m.pt2", check=False)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([6, 1, 4])
    with torch.no_grad():
        torch.testing.assert_close(whole(x, lengths), model(x, lengths), rtol=1e-5, atol=1e-5)
