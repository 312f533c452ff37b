"""`hs.gradient`: right, and without a trace."""

import pytest
import torch
from cases import ALL, batch, model
from torch.nn import functional

import hbll_seq as hs


def flat(found):
    return torch.cat([g.flatten() for g in found.values()])


@pytest.mark.parametrize("cell", ALL)
def test_bptt_is_autograd_and_hbll_with_enough_rounds_is_bptt(cell):
    net, data = model(cell), batch(3, 20)
    exact = torch.autograd.grad(
        functional.cross_entropy(net(data.x).flatten(0, 1), data.y.flatten()), list(net.parameters())
    )
    found = hs.gradient(net, data.x, data.y, rule="bptt")
    assert list(found) == [n for n, _ in net.named_parameters()]
    torch.testing.assert_close(flat(found), torch.cat([g.flatten() for g in exact]))
    ours = hs.gradient(net, data.x, data.y, rule="hbll", block_size=5, sweeps=4, feedback=4, discount=1.0)
    torch.testing.assert_close(flat(ours), flat(found))


def test_nothing_is_touched():
    net, data = model("gru"), batch(3, 20)
    hs.gradient(net, data.x, data.y)  # kernels, caches
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    grads, weights = ([t.clone() for t in some] for some in ([p.grad for p in net.parameters()], net.parameters()))
    rule = hs.rules.make("hbll", execution="parallel")
    rule.setup(net, torch.Generator().manual_seed(0))
    state, before = rule.state_dict(), torch.get_rng_state()
    one, two = hs.gradient(net, data.x, data.y, rule=rule), hs.gradient(net, data.x, data.y, rule=rule)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(flat(one), flat(two))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights, strict=True))
    after = rule.state_dict()
    assert after.keys() == state.keys() and after["steps"] == state["steps"] == 0
    assert all(p.grad is None for p in rule.parameters())


def test_layered_models_and_lists_of_unequal_lengths():
    net = hs.models.MLP((1, 4, 4), 3, hidden=8, layers=4)
    found = hs.gradient(net, torch.rand(5, 1, 4, 4), torch.randint(3, (5,)), rule="hbll")
    assert flat(found).abs().sum() > 0
    seq = hs.models.SequenceModel(2, 3, input_kind="features", task="sequence", hidden=5)
    found = hs.gradient(seq, [torch.rand(4, 2), torch.rand(7, 2)], torch.tensor([0, 2]), rule="hbll")
    assert flat(found).isfinite().all()


def test_bad_arguments_are_named():
    net, data = model("gru"), batch(2, 9)
    with pytest.raises(hs.InputError, match="^loss: got None for a Linear"):
        hs.gradient(torch.nn.Linear(2, 2), data.x, data.y)
    with pytest.raises(hs.InputError, match="^rule: got"):
        hs.gradient(net, data.x, data.y, rule="bppt")
    with pytest.raises(hs.InputError, match="^seed: got"):
        hs.gradient(net, data.x, data.y, seed="x")


def test_what_an_author_of_a_rule_needs_is_in_one_place():
    from hbll_seq.rules import Batch, Execute, Rule, StepResult, forward_backward, register, sequential

    assert all((Batch, Execute, Rule, StepResult, forward_backward, register, sequential))
