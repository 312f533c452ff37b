"""How a module of a user's own is called, and the forms of what it returns."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import hbll_seq as hs
from hbll_seq.models.called import lengths_argument, outputs


def module(function):
    made = nn.Module()
    made.forward = function
    return made


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.module = inner

    def forward(self, *inputs, **options):
        return self.module(*inputs, **options)


@pytest.mark.parametrize(
    "function,given",
    [
        (lambda x: x, None),
        (lambda x, lengths: x, "lengths"),
        (lambda x, lengths=None: x, "lengths"),
        (lambda x, *, n: x, "n"),
        (lambda x, mask=None, x_lens=None: x, "x_lens"),
        (lambda x, steps: x, 1),
        (lambda x, hx=None: x, None),
        (lambda *x: x, None),
        (lambda x, /, lengths: x, "lengths"),
    ],
)
def test_lengths_go_to_a_parameter_that_wants_them(function, given):
    assert lengths_argument(module(function)) == given
    assert lengths_argument(Around(module(function))) == given


@pytest.mark.parametrize("function", [lambda: 0, lambda x, y, z: x, lambda x, *, mask: x, lambda **x: x])
def test_another_forward_is_refused(function):
    if function.__code__.co_flags & 8:  # **x alone cannot be told from a wrapper: the rehearsal says what fails
        assert lengths_argument(module(function)) is None
        return
    with pytest.raises(hs.InputError, match=r"model: got forward.* expected forward\(x\) or forward\(x, lengths\)"):
        lengths_argument(module(function))


def test_forms_of_outputs():
    out, n = torch.zeros(3, 5, 2), torch.tensor([5, 2, 3], dtype=torch.int32)
    assert outputs(out, 3) == (out, None) and outputs((out, torch.zeros(3)), 3) == (out, None)
    found, lengths = outputs((out, n), 3)
    assert found is out and lengths.dtype == torch.int64 and lengths.tolist() == [5, 2, 3]
    assert outputs(nn.GRU(2, 4, batch_first=True)(out), 3)[1] is None
    assert outputs([out, n, "more"], 3)[1].tolist() == [5, 2, 3]
    packed = pack_sequence([torch.zeros(4, 2), torch.zeros(2, 2), torch.zeros(1, 2)])
    for form in (packed, (packed, None)):
        found, lengths = outputs(form, 3)
        assert found.shape == (3, 4, 2) and lengths.tolist() == [4, 2, 1]


def test_a_file_of_an_adopted_module_is_that_of_the_module(tmp_path):
    plain, other = nn.Linear(2, 2), hs.models.AnyModule(nn.Linear(2, 2), "mse")
    hs.save(hs.models.AnyModule(plain, "mse"), tmp_path / "m")
    with pytest.raises(hs.InputError, match="into: got None, .* has the weights of a Linear"):
        hs.load(tmp_path / "m")
    assert hs.load(tmp_path / "m", into=other) is other and torch.equal(other.inner.weight, plain.weight)
    assert torch.equal(hs.load(tmp_path / "m", into=nn.Linear(2, 2)).weight, plain.weight)
