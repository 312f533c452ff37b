"""Layers without gradient: both ways give PyTorch's numbers, and each is taken where it should be."""

import pytest
import torch
from cases import NAMED, OwnCell
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hbll_seq.cells import MixedCell, adopt, inference
from hbll_seq.cells.mingru import MinGRU
from hbll_seq.kernels import outputs as kernel

TORCH = {
    "gru": lambda i, d, bias: nn.GRU(i, d, bias=bias, batch_first=True),
    "lstm": lambda i, d, bias: nn.LSTM(i, d, bias=bias, batch_first=True),
    "tanh": lambda i, d, bias: nn.RNN(i, d, bias=bias, batch_first=True),
    "relu": lambda i, d, bias: nn.RNN(i, d, bias=bias, batch_first=True, nonlinearity="relu"),
}


def layer(name, inputs, d, bias=True):
    """A layer and its only cell; relu layers are made to shrink their state."""
    module = MinGRU(inputs, d) if name == "mingru" else TORCH[name](inputs, d, bias)
    if name == "relu":
        module.weight_hh_l0.data *= 0.5
    return module, adopt(module, inputs)[0]


def by_torch(name, module, x, state):
    d = module.hidden_size
    if name == "lstm":
        out, (h, c) = module(x, (state[None, :, d:].contiguous(), state[None, :, :d].contiguous()))
        return out, torch.cat([c[0], h[0]], 1)
    out, h = module(x, state[None])
    return out, h[0]


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(TORCH)),
    rows=st.sampled_from([1, 2, 3, 8, 13, 33]),
    steps=st.sampled_from([1, 2, 7, 40, 131]),
    inputs=st.integers(1, 9),
    d=st.sampled_from([1, 5, 16, 20, 48]),
    bias=st.booleans(),
    rolls=st.booleans(),
    limit=st.sampled_from([1, 2000, 1 << 22]),
    seed=st.integers(0, 99),
)
def test_both_ways_give_the_numbers_of_pytorch_s_layer(name, rows, steps, inputs, d, bias, rolls, limit, seed):
    torch.manual_seed(seed)
    module, cell = layer(name, inputs, d, bias)
    x, state = torch.randn(rows, steps, inputs), 0.5 * torch.randn(rows, cell.state_size)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = by_torch(name, module, x, state)
        patch.setattr(inference, "roll_pays", lambda *args: rolls)
        patch.setattr(kernel, "SLICE", limit)
        found = cell.deployed(x, state)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("d", [16, 21])
@pytest.mark.parametrize("steps", [1, 2, 75])
def test_a_min_gru_rolls_as_it_steps(steps, d):
    _, cell = layer("mingru", 4, d)
    x, state = torch.randn(3, steps, 4), torch.randn(3, d)
    with torch.no_grad():
        for a, b in zip(inference.rolled(cell, x, state), cell.sequence(x, state), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", [*sorted(TORCH), "mingru"])
@pytest.mark.parametrize("rows,d", [(1, 128), (9, 48)])
def test_threads_change_no_bit(name, rows, d):
    _, cell = layer(name, d, d)
    x, state = torch.randn(rows, 60, d), torch.randn(rows, cell.state_size)
    one = inference.rolled(cell, x, state)
    torch.set_num_threads(2)
    # whichever way threads share the work; the product before the roll is MKL's own affair
    for a, b in zip(inference.rolled(cell, x, state), one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*sorted(TORCH), "mingru"])
def test_a_call_returns_tensors_of_its_own(name):
    """Nothing that the caller gave or got serves as a work buffer of a later call."""
    _, cell = layer(name, 16, 16)
    x, state = torch.randn(2, 50, 16), torch.zeros(2, cell.state_size)
    before = x.clone(), state.clone()
    first = inference.rolled(cell, x, state)
    kept = [one.clone() for one in first]
    for _ in range(3):
        inference.rolled(cell, torch.randn(2, 50, 16), state + 1)
    assert torch.equal(x, before[0]) and torch.equal(state, before[1])
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert not any(one.requires_grad for one in first)


@pytest.mark.parametrize(
    "name,rows,steps,d,rolls",
    [
        ("gru", 1, 1000, 64, True),
        ("gru", 32, 512, 512, True),
        ("gru", 1, 1, 64, False),
        ("gru", 1, 8, 512, False),  # packing the weights takes longer than eight time steps
        ("tanh", 1, 1, 16, False),
        ("tanh", 8, 512, 128, True),
        ("lstm", 8, 512, 128, False),  # oneDNN
        ("lstm", 1, 4096, 64, True),
        ("mingru", 4, 512, 64, True),
    ],
)
def test_the_choice(name, rows, steps, d, rolls, monkeypatch):
    _, cell = layer(name, 4, d)
    went = []
    monkeypatch.setattr(inference, "rolled", lambda cell, x, state: went.append("roll") or (x, state))
    monkeypatch.setattr(type(cell), "sequence", lambda self, x, state: went.append("sequence") or (x, state))
    cell.deployed(torch.zeros(rows, steps, 4), torch.zeros(rows, cell.state_size))
    assert went == ["roll" if rolls else "sequence"]


def test_what_has_no_compiled_roll_runs_as_in_training():
    module = OwnCell(3, 5)
    double = adopt(nn.GRU(3, 5).double(), 3)[0]
    for cell, kind in ((adopt(module, 3)[0], torch.float32), (double, torch.float64)):
        x, state = torch.randn(2, 40, 3, dtype=kind), torch.randn(2, 5, dtype=kind)
        for a, b in zip(cell.deployed(x, state), cell.sequence(x, state), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["gru", "lstm", "tanh"])
def test_bfloat16_products_stay_rounded(name):
    _, cell = layer(name, 6, 16)
    mixed = MixedCell(cell)
    x, state = torch.randn(2, 5, 6), torch.zeros(2, cell.state_size)  # later a state may round to another neighbour
    with torch.no_grad():
        found, rounded, exact = mixed.deployed(x, state)[0], mixed.sequence(x, state)[0], cell.deployed(x, state)[0]
    assert (found - rounded).abs().mean() < 0.5 * (found - exact).abs().mean()


@pytest.mark.parametrize("name", NAMED)
def test_a_time_step_without_gradient(name):
    _, cell = layer("tanh" if name == "elman" else name, 4, 6)
    x, state = torch.randn(3, 4), torch.randn(3, cell.state_size)
    found = cell.deployed_step(x, state)
    assert not found.requires_grad
    torch.testing.assert_close(found, cell.step(x, state).detach(), rtol=1e-5, atol=1e-6)


def test_empty_input_is_refused_or_passed_as_by_pytorch():
    _, cell = layer("gru", 4, 6)
    out, end = cell.deployed(torch.zeros(0, 5, 4), torch.zeros(0, 6))
    assert out.shape == (0, 5, 6) and end.shape == (0, 6)
