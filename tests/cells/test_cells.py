"""Cells are views on ordinary torch modules; their rolls and carries agree with autograd."""

import pytest
import torch
from cases import ALL, NAMED, OwnCell, model
from torch import nn

from hbll_seq.cells import AutogradRoll, adopt, chrono_
from hbll_seq.errors import InputError
from hbll_seq.models import SequenceModel

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN}


@pytest.mark.parametrize("cell", ALL)
def test_step_by_step_equals_the_sequence(cell):
    layer = model(cell).cells[0]
    x, state = torch.randn(3, 9, layer.input_size).double(), torch.randn(3, layer.state_size).double().tanh()
    out, end = layer.sequence(x, state)
    for t in range(9):
        state = layer.step(x[:, t], state)
        torch.testing.assert_close(layer.output(state), out[:, t])
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_an_adopted_module_is_shared_both_ways(kind, bias):
    module = KINDS[kind](5, 4, num_layers=2, bias=bias, batch_first=True)
    net = SequenceModel(5, 3, cell=module, input_kind="features")
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(net(x), net.readout(module(x)[0]))
    fresh = KINDS[kind](5, 4, num_layers=2, bias=bias, batch_first=True)
    fresh.load_state_dict(net.rnn.state_dict())  # out: a plain torch module
    torch.testing.assert_close(net.readout(fresh(x)[0]), net(x))
    with torch.no_grad():
        module.weight_hh_l1.zero_()  # in: a change of the module is a change of the model
    assert net.cells[1].parameters()[1].eq(0).all()


def test_elman_with_relu_is_adopted():
    module = nn.RNN(5, 4, nonlinearity="relu", batch_first=True)
    net = SequenceModel(5, 3, cell=module, input_kind="features")
    x = torch.randn(2, 7, 5)
    torch.testing.assert_close(net(x), net.readout(module(x)[0]))


@pytest.mark.parametrize("cell", [c for c in ALL if c != "user"])
def test_the_carry_is_the_diagonal_of_the_jacobian(cell):
    """Exact for GRU, minGRU and Elman; gate-only by definition for LSTM and the user's own carry."""
    layer = model(cell, hidden=4).cells[0]
    x, state = torch.randn(1, layer.input_size).double(), torch.randn(1, layer.state_size).double().tanh()
    carry = layer.advance(layer.project(x), state).carry[0]
    m = layer.memory_size
    jacobian = torch.autograd.functional.jacobian(lambda s: layer.step(x, s)[0], state)[:, 0]
    if cell == "lstm":
        gates = x @ layer.w_ih.T + layer.b_ih + state[:, m:] @ layer.w_hh.T + layer.b_hh
        torch.testing.assert_close(carry, torch.sigmoid(gates[0, m : 2 * m]))
        torch.testing.assert_close(carry, jacobian[:m, :m].diagonal())
        link = layer.advance(layer.project(x), state).link[0]
        torch.testing.assert_close(link * carry, jacobian[m:, :m].diagonal())
    elif cell == "user with carry":
        torch.testing.assert_close(carry, layer.module.carry(x, state)[0])
    else:
        torch.testing.assert_close(carry, jacobian.diagonal())


def test_the_estimated_carry_comes_near_the_diagonal():
    torch.manual_seed(1)
    layer = adopt(OwnCell(4, 4).double(), 4)[0]
    x, state = torch.randn(1, 4).double().repeat(4000, 1), torch.randn(1, 4).double().tanh().repeat(4000, 1)
    carry = layer.advance(x, state).carry[0]
    jacobian = torch.autograd.functional.jacobian(lambda s: layer.step(x[:1], s)[0], state[:1])[:, 0]
    torch.testing.assert_close(carry, jacobian.diagonal(), atol=0.03, rtol=0)


@pytest.mark.parametrize("cell", ALL)
def test_every_roll_agrees_with_the_reference_roll(cell):
    layer = model(cell).cells[0]
    x = torch.randn(5, 8, layer.input_size).double()
    state = torch.randn(8, layer.state_size).double().tanh()
    roll, reference = layer.roll(x, state, keep=True), AutogradRoll(layer, x, state, keep=True)
    ends = layer.roll(x, state, keep=False)
    for one in (roll, ends):
        torch.testing.assert_close(one.end, reference.end)
        torch.testing.assert_close(one.carry, reference.carry)
    torch.testing.assert_close(roll.outputs, reference.outputs)
    for _ in range(2):  # products may be asked for again, with other messages
        dout, dend = torch.randn_like(roll.outputs), torch.randn_like(roll.end)
        torch.testing.assert_close(roll.backward_state(dout, dend), reference.backward_state(dout, dend))
        p, q = roll.gradients(), reference.gradients()
        torch.testing.assert_close(p[0], q[0])
        for one, two in zip(p[1], q[1], strict=True):
            torch.testing.assert_close(one, two)
    torch.testing.assert_close(roll.backward_state(None, dend), reference.backward_state(None, dend))
    torch.testing.assert_close(roll.backward_state(dout, None), reference.backward_state(dout, None))


@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
def test_chrono_spreads_the_memories_over_time_scales(cell):
    net = SequenceModel(5, 5, hidden=200, cell=cell, timescale=1000.0)
    layer = net.cells[0]
    x, state = torch.zeros(1, layer.input_size), torch.zeros(1, layer.state_size)
    with torch.no_grad():
        net.rnn.weight_ih_l0.zero_()
        tau = -1 / layer.advance(layer.project(x), state).carry[0].clamp(max=1 - 1e-6).log()
        if cell == "gru":  # the full diagonal has more than the gate at state 0
            z = torch.sigmoid(layer.b_ih[200:400] + layer.b_hh[200:400])
            tau = -1 / z.log()
    decades = [int(((tau > 10**k) & (tau <= 10 ** (k + 1))).sum()) for k in range(3)]
    assert sum(decades) >= 195 and all(45 <= d <= 90 for d in decades)


@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
def test_chrono_reaches_every_layer_and_direction(cell):
    for options in (dict(bidirectional=True), dict(projection=3)):
        net = SequenceModel(5, 5, hidden=50, layers=2, cell=cell, timescale=1000.0, **options)
        kept = {"gru": slice(50, 100), "lstm": slice(50, 100), "mingru": slice(0, 50)}[cell]
        biases = [p.detach() for name, p in net.rnn.named_parameters() if "bias_ih" in name]
        assert len(biases) == (4 if "bidirectional" in options else 2)
        assert all(float(b[kept].abs().max()) > 5 for b in biases)  # about log(1000); far from the usual bounds
        assert len({float(b[kept][0]) for b in biases}) == len(biases)


def test_chrono_leaves_adopted_and_gateless_modules_alone():
    module = nn.GRU(5, 4, batch_first=True)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    SequenceModel(5, 3, cell=module, input_kind="features")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    rnn = nn.RNN(5, 4)
    before = {k: v.clone() for k, v in rnn.state_dict().items()}
    chrono_(rnn, 100.0)
    assert all(torch.equal(v, before[k]) for k, v in rnn.state_dict().items())


@pytest.mark.parametrize(
    "module,says",
    [
        (nn.GRU(5, 4, bidirectional=True), "bidirectional"),
        (nn.LSTM(5, 4, proj_size=2), "proj_size"),
        (nn.GRU(5, 4, 2, dropout=0.5), "dropout"),
        (nn.GRU(6, 4), "input_size=6"),
        (nn.Linear(5, 4), "hidden_size"),
    ],
)
def test_modules_that_cannot_be_trained_are_refused(module, says):
    with pytest.raises(InputError, match=says):
        adopt(module, 5)


@pytest.mark.parametrize("name", ["GRU", "transformer", ""])
def test_unknown_cells_are_named(name):
    with pytest.raises(InputError, match="cell: got"):
        SequenceModel(5, 5, cell=name)


@pytest.mark.parametrize("cell", NAMED)
def test_initialisation_repeats_and_leaves_the_global_state_alone(cell):
    before = torch.random.get_rng_state()
    one, two, other = (SequenceModel(5, 5, cell=cell, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    p, q, r = (torch.cat([v.flatten() for v in m.parameters()]) for m in (one, two, other))
    assert torch.equal(p, q) and not torch.equal(p, r)
