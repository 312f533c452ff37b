"""Windows with a carried state are one long sequence; their gradient is that of BPTT truncated at the windows."""

import pytest
import torch
from cases import ALL, NAMED, batch, model
from torch import nn

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.models.scoring import score_on
from hbll_seq.training.carried import zero_state

# enough sweeps and corrections of all blocks at once are exact
EXACT = dict(execution="parallel", discount=1.0, sweeps=12, feedback=12, pull=0.0)
RULES = {
    "bptt": dict(rule="bptt"),
    "bptt in segments": dict(rule="bptt", memory=8000),
    "bptt by torch": dict(rule="bptt", kernels="torch"),
    "tbptt": dict(rule="tbptt", block_size=50),
    "tbptt by torch": dict(rule="tbptt", block_size=50, kernels="torch"),
    "hbll in order": dict(rule="hbll", execution="sequential", discount=1.0),
    "hbll": dict(rule="hbll", execution_block=4, block_size=4, **EXACT),
    "hbll in groups": dict(rule="hbll", execution_block=4, block_size=4, group=1, **EXACT),
}
B, T, WINDOW = 3, 43, 12  # the last window has 7 time steps, and no block of 4 ends with it


def made(net, rule, **options):
    found = hs.rules.make(rule, **options)
    found.setup(net, torch.Generator().manual_seed(0))
    return found


def windows(data):
    """The batch's windows, with their first time steps."""
    for first in range(0, T, WINDOW):
        part = slice(first, first + WINDOW)
        x = data.x[:, part]
        yield first, Batch(x, torch.full((B,), x.shape[1]), data.y[:, part], data.mask[:, part])


def by_pytorch(net, data):
    """States after every window, and the gradient: PyTorch's layers under autograd, the state detached by hand."""
    net.zero_grad()
    state, states = None, []
    for _, part in windows(data):
        out, state = net(part.x, state=state, return_state=True)
        nn.functional.cross_entropy(out.flatten(0, 1), part.y.flatten()).backward()
        state = [one.detach() for one in state]
        states.append(state)
    return states, [p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
def test_carried_windows_are_one_sequence_with_the_gradient_cut_at_windows(cell, layers, name):
    net, data = model(cell, layers=layers), batch(B, T)
    rule = made(net, **RULES[name])
    expected, gradient = by_pytorch(net, data)
    net.zero_grad()
    state = zero_state(net, B)
    for (_, part), one in zip(windows(data), expected, strict=True):
        result = rule.step(net, part._replace(state=state), progress=1.0)
        state = result.state
        assert not any(s.requires_grad for s in state)
        for ours, theirs in zip(state, one, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for p, g in zip(net.parameters(), gradient, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=0, atol=1e-12)
    with torch.no_grad():
        whole = net(data.x, return_state=True)[1]
    for ours, theirs in zip(state, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
def test_dsf_carries_the_state_of_the_chain(cell, layers):
    net, data = model(cell, layers=layers), batch(B, T)
    rule, state = made(net, "dsf"), zero_state(net, B)
    for _, part in windows(data):
        state = rule.step(net, part._replace(state=state), progress=1.0).state
    for ours, theirs in zip(state, by_pytorch(net, data)[0][-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", NAMED)
def test_compiled_layers_in_float32_too(cell, layers):
    net, data = model(cell, layers=layers, hidden=16).float(), batch(B, T)
    expected, gradient = by_pytorch(net, data)
    for name, options in RULES.items():
        rule, state = made(net, **options), zero_state(net, B)
        net.zero_grad()
        for (_, part), one in zip(windows(data), expected, strict=True):
            state = rule.step(net, part._replace(state=state), progress=1.0).state
            for ours, theirs in zip(state, one, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=name)
        for p, g in zip(net.parameters(), gradient, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("cell", NAMED)
def test_scores_of_the_deployed_model_go_on_from_the_state(cell):
    net, data = model(cell, layers=2), batch(B, T)
    with torch.no_grad():
        whole = net(data.x)
    state = zero_state(net, B)
    for first, part in windows(data):
        _, out, state = score_on(net, part._replace(state=state))
        torch.testing.assert_close(out, whole[:, first : first + WINDOW], rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", NAMED)
def test_a_reported_state_outlives_the_next_update(cell, layers):
    """It is memory of its own, not a work buffer that the next roll writes to."""
    net, data = model(cell, layers=layers).float(), batch(B, 12)
    for options in RULES.values():
        rule = made(net, **options)
        first = rule.step(net, data._replace(state=zero_state(net, B)), progress=1.0).state
        kept = [one.clone() for one in first]
        rule.step(net, batch(B, 12, seed=5)._replace(state=first), progress=1.0)
        assert all(torch.equal(one, was) for one, was in zip(first, kept, strict=True))


@pytest.mark.parametrize("name", ["bptt", "hbll", "tbptt by torch"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_padded_batches_carry_the_state_at_each_sequences_end(cell, name):
    net, data = model(cell), batch(B, T, lengths=[43, 20, 7])
    result = made(net, **RULES[name]).step(net, data._replace(state=zero_state(net, B)), progress=1.0)
    for row, steps in enumerate([43, 20, 7]):
        alone = net(data.x[row : row + 1, :steps], return_state=True)[1]
        torch.testing.assert_close(result.state[0][row], alone[0][0].detach(), rtol=0, atol=1e-12)


def test_without_a_start_state_none_is_reported():
    net, data = model("gru"), batch(B, T)
    assert all(made(net, **options).step(net, data, progress=1.0).state is None for options in RULES.values())
