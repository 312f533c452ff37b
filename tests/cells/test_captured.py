"""Rolls as CUDA graphs: replayed by a recorder for the CPU, they give what launching step by step gives."""

import pytest
import torch
from cases import ALL, batch, gradient, model
from recorder import Recorder
from torch import nn

import hbll_seq as hs
from hbll_seq.cells import AutogradRoll, Captures, captured
from hbll_seq.kernels import buffers, graphs

STEPWISE = ["gru", "mingru", "user", "user with carry"]  # in float64 on a CPU; LSTM and Elman are one call


@pytest.fixture
def made(monkeypatch):
    """Every recorder that was asked for."""
    all_made = []

    def recorder(device):
        all_made.append(Recorder())
        return all_made[-1]

    monkeypatch.setattr(graphs, "recorder", recorder)
    return all_made


def products(roll, dout, dend):
    start = roll.backward_state(dout, dend).clone()
    dx, parameters = roll.gradients()
    return [roll.outputs.clone(), roll.end, roll.carry, start, dx, *parameters]


@pytest.mark.parametrize("cell", STEPWISE)
def test_replays_with_new_inputs_and_new_weights_are_rolls(cell, made):
    layer = model(cell, hidden=5).cells[0]
    recorded = captured(layer, Captures())
    for turn in range(3):
        g = torch.Generator().manual_seed(turn)
        x, dout, start, dend = (torch.randn(*s, generator=g).double() for s in ((4, 6, 5), (4, 6, 5), (6, 5), (6, 5)))
        ours = products(recorded.roll(x, start, keep=True), dout, dend)
        for one, two in zip(ours, products(layer.roll(x, start, keep=True), dout, dend), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
        ends = recorded.roll(x, start, keep=False, projected=layer.projected(x))
        torch.testing.assert_close(ends.end, layer.roll(x, start, keep=False).end, rtol=1e-12, atol=1e-14)
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=g))
    assert len(made) == 2  # with and without activations, once each
    assert sorted(one.recorded for one in made) == [1, 6]


@pytest.mark.parametrize("cell", STEPWISE)
def test_missing_gradients_corrections_and_the_input_left_out(cell, made):
    layer = model(cell, hidden=5).cells[0]
    x, start = torch.randn(4, 6, 5).double(), torch.randn(6, 5).double()
    dout, dend = torch.randn(4, 6, 5).double(), torch.randn(6, 5).double()
    ours, plain = captured(layer, Captures()).roll(x, start, keep=True), layer.roll(x, start, keep=True)
    for given in ((dout, None), (None, dend), (dout, dend)):  # one after the other, as corrections do
        torch.testing.assert_close(ours.backward_state(*given), plain.backward_state(*given))
    _, expected = plain.gradients(inputs=False)
    for _ in range(2):
        ours.backward_state(dout, dend)
        dx, found = ours.gradients(inputs=False)
        assert dx is None
        torch.testing.assert_close(found, expected)


def test_a_roll_overtaken_by_another_is_rolled_again(made):
    layer = model("mingru", hidden=5).cells[0]
    recorded = captured(layer, Captures())
    x, other, start = torch.randn(4, 6, 5).double(), torch.randn(4, 6, 5).double(), torch.randn(6, 5).double()
    first = recorded.roll(x, start, keep=True)
    recorded.roll(other, start, keep=True)
    dend = torch.randn(6, 5).double()
    expected = layer.roll(x, start, keep=True).backward_state(None, dend)
    torch.testing.assert_close(first.backward_state(None, dend), expected)


@pytest.mark.parametrize("options", [{}, {"group": 2}, {"sweeps": 2, "feedback": 1}], ids=["auto", "groups", "fixed"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
def test_the_rule_gives_the_same_gradients_and_training(cell, layers, options, made):
    def run(capture):
        net = model(cell, layers=layers)
        rule = hs.rules.make("hbll", block_size=8, check_every=0, capture=capture, **options)
        rule.setup(net, torch.Generator().manual_seed(0))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        vectors = []
        for seed in range(3):
            vectors.append(gradient(rule, net, batch(3, 40, seed=seed, lengths=[40, 31, 9])))
            optimizer.step()
        return vectors, rule

    expected, _ = run(False)
    found, rule = run(True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert len(rule.engine.captures) == sum(one.recorded > 0 for one in made)
    if cell in STEPWISE:
        assert sum(one.replays for one in made) > 10


def test_gradients_add_up_over_batches(made):
    """What a replay gave must not change under the caller at the next one."""
    net = model("user", layers=1)
    ours, plain = (hs.rules.make("hbll", block_size=8, check_every=0, capture=one) for one in (True, False))
    totals = []
    for rule in (ours, plain):
        net.zero_grad()
        for seed in range(3):
            rule.step(net, batch(2, 24, seed=seed), progress=0.5)
        totals.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    torch.testing.assert_close(*totals)


def test_the_oldest_recordings_go(made):
    layer, captures = model("mingru", hidden=5).cells[0], Captures()
    for n in range(1, 13):
        captured(layer, captures).roll(torch.randn(3, n, 5).double(), torch.zeros(n, 5).double(), keep=False)
    assert len(captures) == 8


def test_a_replay_writes_into_nobody_elses_buffer(made, monkeypatch):
    waiting = []
    monkeypatch.setattr(buffers, "_waiting", waiting)
    layer = model("gru", hidden=5).cells[0]
    recorded = captured(layer, Captures())
    x, start = torch.randn(4, 6, 5).double(), torch.randn(6, 5).double()
    layer.roll(x, start, keep=True).backward_state(None, start)  # leaves buffers that are too good to be missed
    recorded.roll(x, start, keep=True).backward_state(None, start)
    theirs = waiting[:]
    assert theirs
    for one in theirs:
        one.fill_(7.0)
    recorded.roll(x, start, keep=True).backward_state(None, start)
    assert all((one == 7.0).all() for one in theirs)


class Impatient(nn.Module):
    """Looks at its own state on the host."""

    def __init__(self):
        super().__init__()
        self.input_size, self.hidden_size = 6, 6
        self.write = nn.Linear(12, 6)

    def forward(self, x, h):
        new = torch.tanh(self.write(torch.cat([x, h], 1)))
        return new if float(new.detach().mean()) < 2 else h

    def carry(self, x, h):
        return torch.zeros_like(h)


def test_a_cell_that_waits_for_the_device_is_refused(made):
    net = hs.models.SequenceModel(7, 7, cell=Impatient(), task="step", embedding=6).double()
    rule = hs.rules.make("hbll", block_size=8, capture=True)
    with pytest.raises(hs.InputError, match=r"capture: got True for a cell that cannot be recorded .*capture=False"):
        rule.step(net, batch(2, 24))


def test_where_it_cannot_be_had():
    with pytest.raises(hs.InputError, match="capture: got True beside precision"):
        hs.rules.make("hbll", capture=True, precision="bf16")
    with pytest.raises(hs.InputError, match="capture: got True beside execution"):
        hs.rules.make("hbll", capture=True, execution="sequential")
    rule = hs.rules.make("hbll", capture=True)
    with pytest.raises(hs.InputError, match="capture: got True on device 'cpu'; expected a CUDA device"):
        rule.setup(model("gru"), torch.Generator())


def test_step_by_step_is_said_by_every_roll():
    for cell in ALL:
        layer = model(cell).cells[0]
        roll = layer.roll(torch.randn(3, 2, 6).double(), torch.zeros(2, layer.state_size).double(), keep=True)
        assert roll.step_by_step == (cell in STEPWISE)
        assert AutogradRoll(layer, torch.randn(3, 2, 6).double(), layer.initial(2, roll.end), keep=True).step_by_step
