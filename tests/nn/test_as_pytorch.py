"""Uses of a layer that PyTorch's own layer allows: in-place outputs, hooks, forward mode, inputs of any size."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import hbll_seq as hs
from hbll_seq import nn as hnn
from hbll_seq.models import SequenceModel
from tests.nn.torch_layers import TIGHT, pair, tensors

KIND = pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
BLOCKS = dict(execution="parallel", execution_block=3, **TIGHT)
OPTIONS = pytest.mark.parametrize(
    "options", [{}, BLOCKS, dict(execution="sequential")], ids=["default", "blocks", "in order"]
)


def layers(kind, options, **kwargs):
    torch.manual_seed(0)
    return pair(kind, 3, 4, options=options, **{"dtype": torch.float64, **kwargs})


def data(t=11, dtype=torch.float64):
    return torch.randn(t, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))


@OPTIONS
@KIND
@pytest.mark.parametrize("steps", [11, 12])
def test_outputs_may_be_changed_in_place(kind, options, steps):
    found = []
    for layer in layers(kind, options):
        x = data(steps).requires_grad_()
        out = layer(x)[0]
        out.mul_(2)
        out.relu_()
        found.append(torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(*found)


@OPTIONS
def test_large_inputs_leave_the_memory_at_a_sequences_end(options):
    """Padding reads some input of the batch, which must not open a gate that keeps the memory."""
    x = pack_padded_sequence(1e6 * data(dtype=torch.float32), torch.tensor([11, 4]))
    theirs, ours = layers("LSTM", options, dtype=torch.float32)
    torch.testing.assert_close(tensors(ours(x)), tensors(theirs(x)))
    with torch.no_grad():
        torch.testing.assert_close(tensors(ours(x)), tensors(theirs(x)))


@OPTIONS
@KIND
def test_hooks_on_computed_weights_are_called_once(kind, options):
    found = []
    for layer in layers(kind, options):
        raw = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
        computed = {name: 1.0 * p for name, p in raw.items()}
        for one in computed.values():
            one.register_hook(lambda g: 3 * g)
            one.retain_grad()
        torch.func.functional_call(layer, computed, (data(),))[0].square().sum().backward()
        found.append([one.grad for one in (*raw.values(), *computed.values())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", ["GRU", "RNN"])  # oneDNN's LSTM has no forward mode
def test_forward_mode_keeps_its_tangents(kind, frozen, grad):
    """A compiled roll would return outputs without a tangent, which stands for zero."""
    x, moved, found = data(400, torch.float32), data(400, torch.float32).flip(0), []
    for layer in layers(kind, {}, dtype=torch.float32):
        layer.requires_grad_(not frozen)
        with torch.set_grad_enabled(grad), forward_ad.dual_level():
            out = layer(forward_ad.make_dual(x, moved))[0]
            found.append(forward_ad.unpack_dual(out).tangent.detach().clone())
    torch.testing.assert_close(*found)


def test_forward_mode_of_a_model_without_gradient():
    model, x = SequenceModel(3, 2, hidden=4, input_kind="features"), data(400, torch.float32).transpose(0, 1)
    exact = torch.autograd.functional.jvp(model, x, torch.ones_like(x))[1]
    with torch.no_grad():
        torch.testing.assert_close(torch.func.jvp(model, (x,), (torch.ones_like(x),))[1], exact)


@KIND
@pytest.mark.parametrize("name", ["weight_ih_l1", "weight_hh_l1", "bias_hh_l0"])
def test_weights_of_two_dtypes_are_refused_as_by_pytorch(kind, name):
    theirs, ours = layers(kind, {}, num_layers=2, dtype=torch.float32)
    x = data(dtype=torch.float32)
    for layer in (theirs, ours):
        setattr(layer, name, nn.Parameter(getattr(layer, name).detach().double()))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with pytest.raises(RuntimeError) as expected:
                theirs(x)
            with pytest.raises(RuntimeError) as found:
                ours(x)
        assert str(found.value) == str(expected.value)


def test_a_layer_of_ones_own_may_be_changed_in_place():
    layer = hnn.MinGRU(3, 4, **BLOCKS).double()
    x = data()
    exact = torch.autograd.grad((2 * layer(x)[0]).square().sum(), list(layer.parameters()))
    out = layer(x)[0]
    out.mul_(2)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), list(layer.parameters())), exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_autocast_does_not_admit_what_it_leaves_alone(dtype):
    theirs, ours = layers("GRU", {}, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for layer in (theirs, ours):
            with pytest.raises(RuntimeError, match="same dtype"):
                layer(data().to(dtype))


def test_revert_refuses_parametrizations():
    model = nn.Sequential(hnn.GRU(3, 4), hnn.GRU(4, 4))
    parametrizations.weight_norm(model[1], "weight_hh_l0")
    with pytest.raises(hs.InputError, match="parametrizations of 1"):
        hs.revert(model)
    assert type(model[0]) is hnn.GRU
