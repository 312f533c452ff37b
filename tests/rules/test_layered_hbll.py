"""Layered models, and every path a network: locality, batched levels, depth, what is exported, saved and refused."""

import pytest
import torch
from torch import nn

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.losses import objective
from hbll_seq.models import GPT, MLP, ViT, depth_tree
from hbll_seq.models.gpt import Decoder
from hbll_seq.rules.depth.bank import Bank
from tests.layered_cases import KINDS, SYMBOLS, data, gradients, networks, noted


def make(**options):
    return hs.rules.make("hbll", family="layered", **({"paths": "any"} | options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_height_in_one_batched_call_equals_node_by_node(kind):
    net = networks()[kind].double()
    batch = data(net)
    together, one = gradients(make(), net, batch)
    singly, two = gradients(make(batched=False), net, batch)
    assert one.loss == pytest.approx(two.loss, rel=1e-12)
    for a, b in zip(together, singly, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_objective_is_the_sum_of_the_nodes_own():
    """Written out once more for N = 4, plain loops: nodes 2; 1 and 3; then two sweeps."""
    net = MLP(6, 3, hidden=5, layers=4).double()
    batch = Batch(torch.randn(4, 6).double(), torch.full((4,), 1), torch.tensor([0, 1, 2, 0]), None)
    ours, result = gradients(make(tree=0.3, sweeps="auto"), net, batch)
    f = {n: net.layers[n - 1] for n in (1, 2, 3)}
    cross = nn.functional.cross_entropy

    z0 = net.embed(batch.x)
    a2, a1 = f[2](z0), f[1](z0)
    z2, z1 = a2.detach(), a1.detach()
    a3 = f[3](z2)
    tree = sum(cross(net.head(a), batch.y) for a in (a1, a2, a3))
    with torch.no_grad():
        h1, h2 = f[1](z0), f[2](z1)
    path = sum(cross(net.head(a), batch.y) for a in (f[1](z0), f[2](h1), f[3](h2)))
    total = 0.3 * tree + path
    assert result.metrics["objective"] == pytest.approx(float(total.detach()))
    assert result.loss == pytest.approx(float(cross(net.head(f[3](h2)), batch.y).detach()))
    for a, b in zip(ours, torch.autograd.grad(total, list(net.parameters())), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["mlp", "gpt"])
def test_no_credit_crosses_a_node(kind):
    """A module whose own losses are cut off gets no gradient from the others'."""
    net = networks()[kind].double()
    batch = data(net)
    seen = []

    class Detached(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z):
            return self.inner(z).detach()

    reference, _ = gradients(make(batched=False), net, batch)
    names = [name for name, _ in net.named_parameters()]
    own = net.layers[4]
    net.layers[4] = Detached(own)  # node 5 no longer learns: the others must not notice
    cut, _ = gradients(make(batched=False), net, batch)
    cut = dict(zip([name for name, _ in net.named_parameters()], cut, strict=True))
    for name, grad in zip(names, reference, strict=True):
        if name.startswith("layers.4."):
            assert grad.abs().sum() > 0 and cut[name.replace("layers.4.", "layers.4.inner.")].abs().sum() == 0
        else:
            seen.append(name)
            torch.testing.assert_close(cut[name], grad)
    assert len(seen) > 10


@pytest.mark.parametrize("layers", [2, 3, 4, 6, 7, 8, 16])
def test_the_depth_is_logarithmic(layers, monkeypatch):
    """The tree takes ceil(log2 N) calls one after the other, whatever the width of a level."""
    net = MLP(6, 3, hidden=5, layers=layers)
    batch = Batch(torch.randn(4, 6), torch.full((4,), 1), torch.tensor([0, 1, 2, 0]), None)
    calls = []
    rule = make(sweeps=0)
    monkeypatch.setattr(Bank, "__call__", noted(calls))
    assert rule.step(net, batch).metrics["depth"] == (layers - 1).bit_length()
    levels = depth_tree.level_nodes(layers)
    assert len(levels) == (layers - 1).bit_length() and calls == levels
    assert make(sweeps="auto").step(net, batch).metrics["depth"] == 2 * len(levels)
    rule = make()
    assert [rule.step(net, batch).metrics["depth"] for _ in range(3)] == [2 * len(levels)] + 2 * [len(levels) + 1]


def test_enough_sweeps_are_the_full_path():
    net = networks()["normed"].double()
    batch = data(net)
    _, result = gradients(make(sweeps=7), net, batch)
    exact = nn.functional.cross_entropy(net(batch.x), batch.y)
    assert result.loss == pytest.approx(float(exact.detach()), rel=1e-12)
    assert len(result.block_loss) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_on_its_way_meets_the_full_paths_states(kind):
    """With weights that stand still, node n's loss is that of path 1..n on the batch of n - 1 steps ago."""
    net = networks(6)[kind].double()
    rule, seen = make(), [data(net, rows, seed) for seed, rows in enumerate((5, 5, 3, 5, 4, 5, 5))]
    for batch in seen:
        grads, result = gradients(rule, net, batch)
    total = 0.0
    for n in range(1, 6):
        batch = seen[-n]
        with torch.no_grad():
            z = net.embed(batch.x)
            for module in net.layers[: n - 1]:
                z = module(z)
        if n == 1:
            z = net.embed(batch.x)
        loss = objective(net.objective, net.head(net.layers[n - 1](z)), batch)[0]
        assert float(result.block_loss[n - 1]) == pytest.approx(float(loss.detach()), rel=1e-5)
        total = total + loss
    assert result.loss == float(result.block_loss[-1])
    # what the path adds to the gradient is that of these losses, each to its own module
    tree, _ = gradients(make(sweeps=0), net, seen[-1])
    path = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
    for g, t, p in zip(grads, tree, path, strict=True):
        torch.testing.assert_close(g, t + (torch.zeros_like(g) if p is None else p))


@pytest.mark.parametrize("kind", ["mlp", "gpt"])
def test_what_is_on_its_way_survives_a_checkpoint(kind, tmp_path):
    net, other = networks(6)[kind], networks(6)[kind]
    if kind == "gpt":
        x, y = torch.arange(400) % SYMBOLS, None
    else:
        x, y = torch.randn(50, *net.input_shape), torch.randint(0, 4, (50,))
    options = dict(rule="hbll", paths="any", batch_size=16, lr=1e-2, steps=12, progress=False)
    whole = hs.fit(net, x, y, **options)
    stop = type("Stop", (), {"on_step_end": lambda self, run, step: step == 5})()
    kept = dict(checkpoint=tmp_path / "c", checkpoint_every=5)
    hs.fit(other, x, y, callbacks=[stop], **kept, **options)
    again = networks(6)[kind]
    resumed = hs.fit(again, x, y, resume=True, **kept, **options)
    assert resumed.history["loss"] == whole.history["loss"]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_another_model_starts_with_nothing_on_its_way():
    rule, (one, two) = make(), (MLP(6, 3, hidden=5, layers=4, seed=s) for s in (0, 1))
    batch = Batch(torch.randn(4, 6), torch.full((4,), 1), torch.tensor([0, 1, 2, 0]), None)
    rule.step(one, batch)
    ours, _ = gradients(rule, two, batch)
    for a, b in zip(ours, gradients(make(), two, batch)[0], strict=True):
        assert torch.equal(a, b)


def test_modules_of_different_kinds_run_too():
    class Rotate(nn.Module):
        def forward(self, z):
            return z.roll(1, -1)

    blocks = [nn.Linear(6, 6), Rotate(), nn.Sequential(nn.Linear(6, 6), nn.Tanh())]
    net = hs.Layered(blocks, embed=nn.Identity(), head=nn.Linear(6, 2), input_shape=(6,), output_size=2)
    assert not Bank(list(net.layers)).alike
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, generator=g)
    run = hs.fit(net, x, (x[:, 0] > 0).long(), rule="hbll", steps=150, batch_size=64, lr=1e-2, progress=False)
    assert run.history["loss"][-1] < 0.4
    with pytest.raises(hs.InputError, match="Layered of modules of your own"):
        net.config()


@pytest.mark.parametrize("kind", ["mlp", "vit", "gpt"])
@pytest.mark.parametrize("rule", ["hbll", "bp", "bp-deep"])
def test_every_rule_trains_every_model(kind, rule, tmp_path):
    net = networks(4)[kind]
    if kind == "gpt":
        x, y = torch.arange(400) % SYMBOLS, None  # the next symbol is certain
    else:
        g = torch.Generator().manual_seed(0)
        x = torch.randn(200, *net.input_shape, generator=g)
        y = (x.flatten(1)[:, :32].sum(1) > 0).long()
        x = x + (2 * y - 1).view(-1, *[1] * len(net.input_shape))
    run = hs.fit(net, x, y, rule=rule, steps=120, lr=1e-2, batch_size=16, progress=False)
    assert sum(run.history["loss"][-10:]) / 10 < 0.5 * run.history["loss"][0]
    hs.save(net, tmp_path / "m")
    again = hs.load(tmp_path / "m")
    batch = data(net)
    assert torch.equal(again.eval()(batch.x), net.eval()(batch.x))


def test_sixteen_plain_layers_train_where_backpropagation_does_not():
    """The paper's headline, on four clouds of points: sigmoid units, no norm, no residual."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 20, generator=g)
    y = torch.randint(0, 4, (800,), generator=g)
    x = centres[y] + 0.5 * torch.randn(800, 20, generator=g)
    accuracy = {}
    for rule in ("hbll", "bp"):
        net = MLP(20, 4, hidden=20, layers=16)
        hs.fit(net, x[:600], y[:600], rule=rule, epochs=50, batch_size=32, lr=1e-2, progress=False)
        accuracy[rule] = hs.evaluate(net, x[600:], y[600:])["accuracy"]
    assert accuracy["hbll"] > 0.95 and accuracy["bp"] < 0.5


def test_dropout_draws_for_every_module():
    net = ViT((1, 8, 8), 4, patch=4, hidden=12, heads=2, layers=4, dropout=0.5).train()
    z = torch.randn(1, 3, 4, 12).expand(2, 3, 4, 12)
    bank = Bank(list(net.layers))
    assert bank.alike
    for module in net.layers:
        module.load_state_dict(net.layers[0].state_dict())
    one, two = bank([1, 2], z)
    assert not torch.equal(one, two)
    net.eval()
    one, two = bank([1, 2], z)
    torch.testing.assert_close(one, two)


def test_the_decoder_reads_on_where_the_whole_would():
    net = networks()["gpt"].double().eval()
    x = data(net).x
    for path in ("full", "short", "first"):
        decoder = Decoder(net, path)
        parts = torch.cat([decoder.extend(x[:, :3]), decoder.extend(x[:, 3:4]), decoder.extend(x[:, 4:])], 1)
        torch.testing.assert_close(parts, net(x, path=path))
        decoder.back(5)
        torch.testing.assert_close(decoder.extend(x[:, 5:7]), net(x, path=path)[:, 5:7])


def test_gpt_is_causal_and_generates():
    net = GPT(SYMBOLS, context=12, hidden=12, heads=2, layers=4, symbols=list("abcdefg")).eval()
    x = torch.randint(0, SYMBOLS, (1, 12))
    before = net(x)
    x[0, 6] = (x[0, 6] + 1) % SYMBOLS
    assert torch.equal(net(x)[:, :6], before[:, :6]) and not torch.equal(net(x)[:, 6:], before[:, 6:])
    text = net.generate("abc", 9, temperature=0)
    assert len(text) == 12 and text.startswith("abc")
    ids = torch.tensor([0, 1, 2])
    slow = ids.tolist()
    for _ in range(9):
        slow.append(int(net(torch.tensor([slow]))[0, -1].argmax()))
    assert net.generate(ids, 9, temperature=0).tolist() == slow
    assert net.generate("abc", 5, seed=1) == net.generate("abc", 5, seed=1)
    with pytest.raises(hs.InputError, match="at most 12 in all"):
        net.generate("abc", 10)


BAD = [
    (lambda: MLP(6, 3, layers=1), "layers"),
    (lambda: MLP(6, 3, activation="swish"), "activation"),
    (lambda: MLP(6, 3, activation="relu", nodes="bernoulli"), "nodes"),
    (lambda: ViT((1, 9, 9), 3, patch=4), "patch"),
    (lambda: GPT(5, hidden=10, heads=4), "heads"),
    (lambda: hs.Layered([], embed=nn.Identity(), head=nn.Identity(), output_size=1, input_shape=(3,)), "layers"),
    (
        lambda: hs.Layered([nn.Identity()], embed=nn.Identity(), head=nn.Identity(), output_size=1),
        "input_shape",
    ),
    (lambda: make(sweeps="many"), "sweeps"),
    (lambda: make(tree=-1), "tree"),
    (lambda: make(colour=1), "colour: got an option that rule 'hbll' does not have"),
    (lambda: hs.fit(MLP(6, 3), torch.randn(5, 6), torch.zeros(5).long(), colour=1, steps=1), "colour: got an option"),
    *[
        (lambda name=name: make(**{name: 0.0}), f'{name}: got 0.0; expected no such option.*rule="hbll-v1" now')
        for name in ("right", "step", "noise", "variance")
    ],
    (lambda: hs.fit(MLP(6, 3), torch.randn(5, 6), torch.zeros(5).long(), noise=0.1, steps=1), "noise: got 0.1.*v1"),
    (lambda: hs.fit(MLP(6, 3), torch.randn(5, 7), torch.zeros(5).long(), steps=1), r"x: got shape \(5, 7\)"),
    (lambda: hs.fit(MLP(6, 3), (torch.randn(5, 6), [6] * 5), torch.zeros(5).long(), steps=1), "x: got"),
    (lambda: hs.fit(MLP(6, 3), torch.full((5, 6), torch.nan), torch.zeros(5).long(), steps=1), "NaN"),
    (lambda: hs.fit(MLP(6, 3), [torch.zeros(6), torch.zeros(5)], torch.zeros(2).long(), steps=1), r"x\[1\]"),
    (lambda: hs.fit(MLP(6, 3), torch.randn(5, 6), torch.full((5,), 3), steps=1), "labels in 3..3"),
    (lambda: hs.fit(MLP(6, 3), torch.randn(5, 6), torch.zeros(5).long(), rule="tbptt", steps=1), "for a layered model"),
    (lambda: hs.fit(MLP(6, 3), torch.randn(5, 6), torch.zeros(5).long(), rule=hs.rules.BPTT(), steps=1), "rule"),
    (lambda: hs.fit(GPT(7, context=8), torch.zeros(50).long(), window=9, steps=1), "window"),
    (lambda: hs.fit(GPT(7, context=8), torch.zeros(2, 10).long(), steps=1), "context"),
]


@pytest.mark.parametrize("call,name", BAD)
def test_what_does_not_fit_is_named(call, name):
    with pytest.raises(hs.InputError, match=name):
        call()


def test_a_module_that_changes_its_shape_is_named():
    net = hs.Layered([nn.Linear(6, 5)], embed=nn.Identity(), head=nn.Linear(5, 2), input_shape=(6,), output_size=2)
    with pytest.raises(hs.InputError, match="node 1 that maps"):
        net(torch.zeros(1, 6))


def test_arrays_come_in_many_containers():
    x, y = torch.randn(12, 1, 8, 8), torch.randint(0, 4, (12,))
    net = networks()["mlp"]
    dataset = torch.utils.data.TensorDataset(x, y)
    expected = hs.evaluate(net, x, y)
    assert hs.evaluate(net, x.numpy(), y.numpy()) == expected
    assert hs.evaluate(net, list(x), y) == expected
    assert hs.evaluate(net, dataset) == expected
    loader = hs.evaluate(net, torch.utils.data.DataLoader(dataset, batch_size=12))
    assert loader == pytest.approx(expected)
    assert hs.predict(net, x[0]).shape == (1, 4) and hs.predict(net, x, probabilities=True).sum() == pytest.approx(12)
