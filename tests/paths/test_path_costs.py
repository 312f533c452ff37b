"""Paths through the tree of depth: which there are, what they cost, early exit, draft and verify."""

import itertools

import matplotlib
import pytest
import torch
from torch import nn

import hbll_seq as hs
from hbll_seq.models import GPT, MLP, ViT, depth_tree

matplotlib.use("Agg")


def test_the_papers_paths_for_eight():
    assert [depth_tree.resolve(8, name) for name in ("first", "short", "full")] == [
        (4,),
        (4, 6, 7),
        (1, 2, 3, 4, 5, 6, 7),
    ]
    assert depth_tree.resolve(8, [4, 6]) == (4, 6)
    assert depth_tree.count(8) == 25 == len(depth_tree.every(8)) and depth_tree.count(16) == 676


@pytest.mark.parametrize("layers", [2, 3, 4, 5, 6, 7, 8, 9])
def test_every_path_is_valid_and_every_other_set_of_nodes_is_not(layers):
    listed = set(depth_tree.every(layers))
    for size in range(layers):
        for nodes in itertools.combinations(range(1, layers), size):
            if nodes in listed:
                assert depth_tree.resolve(layers, nodes) == nodes
            else:
                with pytest.raises(hs.InputError, match="path"):
                    depth_tree.resolve(layers, nodes)
    assert sorted(n for level in depth_tree.level_nodes(layers) for n in level) == list(range(1, layers))


@pytest.mark.parametrize("bad", ["longest", [4, 4], [6, 4], [0, 4], [8], [5, 4, 6], [2, 3], [4, 7]])
def test_what_is_no_path_is_named(bad):
    with pytest.raises(hs.InputError, match="path"):
        depth_tree.resolve(8, bad)


def test_an_exported_path_is_a_plain_module_with_the_same_weights():
    net = MLP(6, 3, hidden=8, layers=8)
    x = torch.randn(4, 6)
    for path in ("full", "short", [4, 5, 6]):
        plain = net.export(path)
        assert type(plain) is nn.Sequential and torch.equal(plain(x), net(x, path=path))
    plain = net.export("first")
    net.layers[3].linear.bias.data += 1
    assert torch.equal(plain(x), net(x, path="first"))  # shared, not copied


def test_costs_of_paths():
    net = ViT((1, 8, 8), 4, patch=4, hidden=12, heads=2, layers=4)
    x, y = torch.randn(9, 1, 8, 8), torch.randint(0, 4, (9,))
    costs = hs.evaluate_paths(net, x, y)
    assert [c.nodes for c in costs] == [(2,), (1, 2), (2, 3), (1, 2, 3)]
    full = costs[-1]
    assert full.parameters == sum(p.numel() for p in net.parameters())
    assert full.accuracy == hs.evaluate(net, x, y)["accuracy"] and full.loss == hs.evaluate(net, x, y)["loss"]
    step = costs[1].flops - costs[0].flops
    assert step > 0 and full.flops == costs[0].flops + 2 * step
    mlp = hs.evaluate_paths(MLP(6, 3, hidden=8, layers=4), torch.randn(5, 6), torch.zeros(5).long(), which=["first"])
    assert mlp[0].flops == 2 * (6 * 8 + 8 * 8 + 8 * 3)
    ax = hs.plot.paths(costs)
    assert ax.get_xlabel() == "modules on the path" and "accuracy" in ax.get_ylabel()
    gpt = hs.evaluate_paths(GPT(7, context=8, hidden=8, heads=2, layers=4), torch.arange(60) % 7, which=["short"])
    assert gpt[0].flops > 0 and gpt[0].loss > 0


def test_the_any_time_answer_stops_when_it_is_sure():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g)
    y = (x[:, 0] > 0).long()
    net = MLP(6, 2, hidden=12, layers=8)
    hs.fit(net, x, y, rule="hbll", paths="any", steps=300, batch_size=64, lr=1e-2, progress=False)
    for confidence in (0.0, 0.95, 1.0):
        answer = hs.predict_anytime(net, x, confidence, batch_size=150)
        assert answer.labels.shape == (400,) and float(answer.modules.min()) >= 1 and int(answer.modules.max()) <= 3
        with torch.no_grad():
            stages = [torch.softmax(net(x, path=p), -1).max(-1) for p in ([4], [4, 6], [4, 6, 7])]
        for row in range(400):
            k = int(answer.modules[row]) - 1
            assert int(stages[k].indices[row]) == int(answer.labels[row])
            assert all(float(stages[i].values[row]) < confidence for i in range(k))
            assert k == 2 or float(stages[k].values[row]) >= confidence - 1e-6
    assert (hs.predict_anytime(net, x, 0.0).modules == 1).all()
    with pytest.raises(hs.InputError, match="confidence"):
        hs.predict_anytime(net, x, 1.5)
    with pytest.raises(hs.InputError, match="model"):
        hs.predict_anytime(GPT(7), x)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("draft,ahead", [("first", 1), ("first", 4), ("short", 3), ("full", 5)])
def test_draft_and_verify_writes_what_the_full_path_would(draft, ahead, trained):
    net = GPT(5, context=40, hidden=8, heads=2, layers=8, seed=3).double()
    if trained:
        g = torch.Generator().manual_seed(0)
        text = torch.randint(0, 5, (600,), generator=g).cumsum(0) % 5
        hs.fit(net, text, rule="hbll", paths="any", steps=30, lr=1e-2, progress=False)
    net.eval()
    for length in (1, 2, 7, 30):
        prompt = torch.tensor([1, 2, 3, 0])
        result = hs.draft_and_verify(net, prompt, length, draft=draft, ahead=ahead)
        assert torch.equal(result.text, net.generate(prompt, length, temperature=0))
        assert result.calls + result.accepted == length and result.accepted <= result.proposed
    if draft == "full":
        assert result.accepted == result.proposed and result.calls == -(-30 // 6)
    with pytest.raises(hs.InputError, match="ahead"):
        hs.draft_and_verify(net, prompt, 3, ahead=0)
    with pytest.raises(hs.InputError, match="at most 40 in all"):
        hs.draft_and_verify(net, prompt, 37)
