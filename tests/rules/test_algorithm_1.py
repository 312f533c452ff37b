"""The published rule for layered networks: its objective written out, its messages, its options."""

import pytest
import torch
from torch import nn

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.models import MLP
from hbll_seq.rules.depth.bank import Bank
from tests.layered_cases import KINDS, data, gradients, networks, noted


def make(rule="hbll-v1", **options):
    return hs.rules.make(rule, family="layered", **options)


@pytest.mark.parametrize("step", [0.0, 0.5, None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_height_in_one_batched_call_equals_node_by_node(kind, step):
    net = networks()[kind].double()
    batch = data(net)
    together, one = gradients(make(step=step, right=0.1), net, batch)
    singly, two = gradients(make(step=step, right=0.1, batched=False), net, batch)
    assert one.loss == pytest.approx(two.loss, rel=1e-12)
    for a, b in zip(together, singly, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("right", [0.1, 1.0])
def test_the_objective_is_the_sum_of_the_nodes_own(right):
    """Written out once more for N = 4 by plain loops, with the fixed step of one half: nodes 2; 1 and 3."""
    net = MLP(6, 3, hidden=5, layers=4).double()
    batch = Batch(torch.randn(4, 6).double(), torch.full((4,), 1), torch.tensor([0, 1, 2, 0]), None)
    ours, result = gradients(make(right=right), net, batch)
    f = {n: net.layers[n - 1] for n in (1, 2, 3)}
    cross = nn.functional.cross_entropy

    def miss(a, b):
        return (a - b).square().sum(-1).mean() / 2

    def moved(a, cost):
        """Half of the cost's slope down from a forward message; every row has a cost of its own."""
        leaf = a.detach().requires_grad_()
        return a.detach() - torch.autograd.grad(cost(leaf), leaf)[0] / 2

    def label(z):
        return cross(net.head(z), batch.y, reduction="sum")

    z0 = net.embed(batch.x)
    a2, a1 = f[2](z0), f[1](z0)
    z2 = moved(a2, label)
    z1 = moved(a1, lambda z: 4 * miss(f[2](z), z2))  # its right parent is node 2; node 1 hears of it first
    a3 = f[3](z2)
    z3 = moved(a3, label)
    total = sum(cross(net.head(a), batch.y) for a in (a1, a2, a3))
    total = total + miss(a1, z1) + miss(a2, z2) + miss(a3, z3)
    misses = [cross(net.head(z2), batch.y), miss(f[2](z1), z2), cross(net.head(z3), batch.y)]
    total = total + right * sum(misses)
    assert result.metrics["objective"] == pytest.approx(float(total.detach()))
    assert result.metrics["mismatch"] == pytest.approx(float(sum(misses).detach()) / 3)
    for a, b in zip(ours, torch.autograd.grad(total, list(net.parameters())), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sweeps", ["pipelined", 2, 0])
def test_without_messages_it_is_the_rule_for_any_path(kind, sweeps):
    net = networks()[kind]
    batch = data(net)
    published, one = gradients(make(sweeps=sweeps, right=0.0, step=0.0), net, batch)
    default, two = gradients(make("hbll", paths="any", sweeps=sweeps), net, batch)
    assert one.loss == two.loss and one.metrics == two.metrics
    assert all(torch.equal(a, b) for a, b in zip(published, default, strict=True))


@pytest.mark.parametrize("kind", ["mlp", "gpt"])
def test_no_credit_crosses_a_node(kind):
    """The last module's weights reach no other module's gradient but through states, which are constants."""
    net = networks(4)[kind].double()
    batch = data(net)
    rule = make(step=0.0, right=0.1)
    before = dict(zip([n for n, _ in net.named_parameters()], gradients(rule, net, batch)[0], strict=True))
    with torch.no_grad():
        for p in net.layers[2].parameters():
            p += 0.1
    after = dict(zip([n for n, _ in net.named_parameters()], gradients(rule, net, batch)[0], strict=True))
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same == name.startswith(("layers.0.", "layers.1.", "embed")) or name.startswith("head"), name


@pytest.mark.parametrize("layers", [2, 3, 4, 7, 8, 16])
def test_right_arcs_take_one_more_call_a_height(layers, monkeypatch):
    net = MLP(6, 3, hidden=5, layers=layers)
    batch = Batch(torch.randn(4, 6), torch.full((4,), 1), torch.tensor([0, 1, 2, 0]), None)
    rule, calls = make(step=0.0), []
    monkeypatch.setattr(Bank, "__call__", noted(calls))
    rule.step(net, batch)
    levels = (layers - 1).bit_length()
    assert levels <= len(calls) <= 2 * levels


def test_the_published_defaults_train():
    """Four clouds of points, sixteen plain sigmoid layers; the history shows the mismatch."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 20, generator=g)
    y = torch.randint(0, 4, (800,), generator=g)
    x = centres[y] + 0.5 * torch.randn(800, 20, generator=g)
    net = MLP(20, 4, hidden=20, layers=16)
    run = hs.fit(net, x[:600], y[:600], rule="hbll-v1", epochs=40, batch_size=32, lr=1e-2, progress=False)
    assert hs.evaluate(net, x[600:], y[600:])["accuracy"] > 0.9
    assert run.history["mismatch"][-1] < 0.2 * run.history["mismatch"][0]


def test_noise_comes_from_the_seed_alone():
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    losses = []
    for _ in range(2):
        net = MLP(6, 3, hidden=8, layers=4)
        run = hs.fit(net, x, y, rule="hbll-v1", noise=0.1, steps=5, progress=False)
        losses.append(run.history["loss"])
    assert losses[0] == losses[1]
    quiet = hs.fit(MLP(6, 3, hidden=8, layers=4), x, y, rule="hbll-v1", steps=5, progress=False)
    assert quiet.history["loss"][1:] != losses[0][1:]


def test_a_mismatch_does_not_outgrow_the_states_it_is_about():
    net = networks()["vit"]
    with torch.no_grad():
        for layer in net.layers:
            layer.out.weight *= 1e4
            layer.mlp[-1].weight *= 1e4
    _, result = gradients(make(right=0.1, step=0.0), net, data(net))
    assert 0 < result.metrics["mismatch"] < 4 * 12  # per token, in units of a squared deviation for each of 12 units


@pytest.mark.parametrize(
    "options",
    [{"right": -1}, {"step": 2}, {"noise": "much"}, {"variance": 0}, {"sweeps": "many"}, {"tree": -1}],
)
def test_what_does_not_fit_is_named(options):
    with pytest.raises(hs.InputError, match=f"{next(iter(options))}: got"):
        make(**options)
