"""The published recurrent rule: tree states, its losses, the read-out in one go and streamed."""

import pytest
import torch
from cases import batch, model
from hypothesis import given, settings
from hypothesis import strategies as st

import hbll_seq as hs


def ready(net, longest, **options):
    rule = hs.rules.make("hbll-v1", longest=longest, **options)
    rule.setup(net, torch.Generator().manual_seed(0))
    return rule


def tree_states(net, rule, x):
    """h_0 .. h_T-1 one after the other, from the definition."""
    embedded = net.embed(x)
    states = [net.cells[0].initial(x.shape[0], embedded)]
    for n in range(1, x.shape[1]):
        d = (n & -n).bit_length() - 1
        block = embedded[:, n - 2**d : n].flatten(1)
        states.append(rule.folds.cell(net, d).step(block, states[n - 2**d]))
    return states


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["gru", "lstm", "elman"]), st.integers(1, 21), st.booleans())
def test_the_read_out_is_one_step_from_every_tree_state_and_streams(cell, t, shared):
    net, data = model(cell), batch(3, t)
    rule = ready(net, 21, shared=shared)
    with torch.no_grad():
        embedded = net.embed(data.x)
        one = net.cells[0]
        expected = torch.stack(
            [
                net.readout(one.output(one.step(embedded[:, k], h)))
                for k, h in enumerate(tree_states(net, rule, data.x))
            ],
            1,
        )
    torch.testing.assert_close(rule.readout(net, data.x), expected)
    stream = rule.stream(net)
    torch.testing.assert_close(torch.stack([stream.step(data.x[:, k]) for k in range(t)], 1), expected)


def test_the_stream_keeps_a_state_and_a_sum_a_height():
    net = model("gru")
    stream = ready(net, 64).stream(net)
    for k in range(64):
        stream.step(torch.tensor([k % 7]))
        assert len(stream._state) <= 7 and len(stream._sum) <= 6
    with pytest.raises(hs.InputError, match="step 65.*longest=64"):
        stream.step(torch.tensor([0]))


def test_the_read_out_is_causal():
    net, data = model("gru"), batch(2, 13)
    rule = ready(net, 13)
    before = rule.readout(net, data.x)
    for t in range(13):
        x = data.x.clone()
        x[:, t] = (x[:, t] + 1) % 7
        changed = (rule.readout(net, x) - before).abs().amax((0, 2)) > 0
        assert not changed[:t].any() and changed[t]


@pytest.mark.parametrize("shared", [False, True])
def test_no_gradient_crosses_a_node(shared):
    """The gradient is that of the sum of node losses with every other node's state a constant."""
    net, data = model("gru", task="sequence"), batch(2, 8, task="sequence")
    rule = ready(net, 8, sweeps=0, shared=shared)
    result = rule.step(net, data)
    ours = [p.grad.clone() for p in [*net.parameters(), *rule.parameters()]]
    net.zero_grad()
    with torch.no_grad():
        fixed = tree_states(net, rule, data.x)
    x, total = net.embed(data.x), 0.0
    cross = torch.nn.functional.cross_entropy

    def fold(d, h, start):
        return rule.folds.cell(net, d).step(x[:, start : start + 2**d].flatten(1), h)

    total = cross(net.readout(fold(0, fixed[7], 7)), data.y)
    for d in range(3):
        misses = []
        for n in range(2**d, 8, 2 ** (d + 1)):
            h = fold(d, fixed[n - 2**d], n - 2**d)
            ahead = fold(d, h, n)
            if n + 2**d == 8:
                total = total + cross(net.readout(ahead), data.y)
            else:
                misses.append((ahead - fixed[n + 2**d]).square().sum(-1).mean() / 2)
        if misses:
            total = total + torch.stack(misses).mean()
    parameters = [*net.parameters(), *rule.parameters()]
    exact = torch.autograd.grad(total, parameters)
    assert result.metrics["objective"] == pytest.approx(float(total.detach()))
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b)


def test_enough_sweeps_are_the_deployed_chain():
    net, data = model("gru"), batch(2, 9)
    rule = ready(net, 9, sweeps=9)
    with torch.no_grad():
        x = net.embed(data.x)
        states, _ = rule.folds.states(net, x)
        drift = rule._consistency(net, x, states)
        chain = net.cells[0].sequence(x[:, :8], states[0])[0].transpose(0, 1)  # h_1 .. h_8
    torch.testing.assert_close(drift, (chain - states[1:]).square().sum(-1).mean())


def test_it_trains_both_the_chain_and_the_tree():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (512, 8), generator=g)
    net = hs.models.SequenceModel(4, 4, hidden=24, task="sequence")
    rule = hs.rules.make("hbll-v1")
    run = hs.fit(net, x, x[:, 5], rule=rule, steps=600, batch_size=64, lr=1e-2, progress=False)
    fresh = torch.randint(0, 4, (400, 8), generator=g)
    assert hs.evaluate(net, fresh, fresh[:, 5])["accuracy"] > 0.95
    assert float((rule.readout(net, fresh).argmax(1) == fresh[:, 5]).float().mean()) > 0.95
    assert run.history["depth"][-1] == 3 + 1 + 4  # log2 8 levels, the read-out, four sweeps


def test_what_it_cannot_train_is_said_before_anything_changes():
    text = torch.randint(0, 7, (400,))
    for net, message in [
        (hs.models.CharLM(7, hidden=8, layers=2), "GRU of 2 layers"),
        (hs.models.CharLM(7, hidden=8, cell="mingru"), "MinGRU"),
    ]:
        before = [p.clone() for p in net.parameters()]
        with pytest.raises(hs.InputError, match=message):
            hs.fit(net, text, rule="hbll-v1", steps=2, window=20, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    with pytest.raises(hs.InputError, match="longest: got None"):
        hs.rules.make("hbll-v1").setup(hs.models.CharLM(7, hidden=8), torch.Generator())
    short = hs.models.SequenceModel(7, 7, hidden=8, task="sequence")
    with pytest.raises(hs.InputError, match="lengths"):
        hs.fit(short, [text[:5], text[:9]], [1, 2], rule="hbll-v1", steps=1, progress=False)
    with pytest.raises(hs.InputError, match="sweeps"):
        hs.rules.make("hbll-v1", sweeps=-1)
