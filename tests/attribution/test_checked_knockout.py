"""The fast knockout knows its error: exact where that is affordable, and where a sample disagrees."""

import math

import pytest
import torch

import hbll_seq as hs
from hbll_seq.attribution.node_knockout import EXACT, judge, sample
from tests.attribution.test_credit import spearman


def chaotic(task="sequence"):
    """A GRU whose changes grow: recurrent weights 12 times as large."""
    model = hs.models.SequenceModel(8, 8, hidden=24, timescale=None, task=task)
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(12.0)
        model.rnn.weight_ih_l0.mul_(0.5)
    return model


def draw(b, t, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(8, (b, t), generator=g), torch.randint(8, (b,), generator=g)


def test_chaos_is_rolled_exactly_and_said():
    model, (x, y) = chaotic(), draw(3, 4 * (EXACT + 6))
    options = dict(block_size=4, withheld="mean")
    ours, exact, fast = (hs.credit(model, x, y, exact=e, **options) for e in ("auto", True, False))
    assert (ours.method, exact.method, fast.method) == ("exact instead of fast", "exact", "fast")
    assert all(torch.equal(a, b) for a, b in zip(ours.nodes, exact.nodes, strict=True))
    real = max(float((a - b).abs().max()) for a, b in zip(fast.nodes, exact.nodes, strict=True))
    assert exact.error == 0 and 0.01 < fast.error == ours.error <= real + 1e-9
    ours, exact = (hs.lag_map(chaotic("next"), x[:2], exact=e, block_size=4) for e in ("auto", True))
    assert ours.method == "exact instead of fast" and ours.error > 0.01
    assert torch.equal(ours.values, exact.values)


def test_few_blocks_are_rolled_exactly_without_trying():
    model, (x, y) = chaotic(), draw(3, 4 * 20)
    ours, exact = (hs.credit(model, x, y, exact=e, block_size=4) for e in ("auto", True))
    assert ours.method == "exact" and torch.equal(ours.block, exact.block)


def test_networks_that_forget_stay_fast_and_the_error_is_small():
    model = hs.models.SequenceModel(8, 8, hidden=16, task="sequence", timescale=30.0)
    x, y = draw(9, 2 * (EXACT + 30))
    ours, exact = (hs.credit(model, x, y, exact=e, block_size=2) for e in ("auto", True))
    assert ours.method == "fast" and 0 <= ours.error < 1e-3
    assert max(float((a - b).abs().max()) for a, b in zip(ours.nodes, exact.nodes, strict=True)) < 2e-3
    lags, true = (hs.lag_map(model, x, y, exact=e, block_size=2) for e in ("auto", True))
    assert lags.method == "fast" and lags.error < 0.01 and true.method == "exact"
    assert (lags.values - true.values).abs().max() < 0.01


def test_other_kinds_say_how_they_were_found():
    model, (x, y) = chaotic(), draw(2, 20)
    for kind, method in (("posterior", "messages"), ("gradient", "backpropagation")):
        found = hs.credit(model, x, y, kind=kind, block_size=4)
        assert found.method == method and math.isnan(found.error)


def test_the_judgement():
    real = torch.tensor([[1.0, 0.1], [math.nan, 0.001]]).double()
    assert judge(real, real) == (0.0, True)
    assert judge(real + 0.009, real)[1] and judge(real + torch.tensor([[0.019, 0], [0, 0]]), real)[1]
    assert not judge(real + torch.tensor([[0, 0.0], [0, 0.019]]), real)[1]  # its sequence has little credit
    assert not judge(real * math.inf, real)[1] and not judge(real * math.nan, real)[1]


def test_the_sample_holds_the_largest_and_covers_all():
    values = torch.zeros(2, 100)
    values[1, 39] = -5
    found = sample(values, 8)
    assert 39 in found and found == sorted(set(found)) and len(found) == 13
    assert max(b - a for a, b in zip([0, *found], [*found, 99], strict=True)) <= 9
    assert sample(torch.zeros(2, 3), 8) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["parity", "s3"])
@pytest.mark.parametrize("blocks", [16, 256])
def test_truth_on_tasks_that_do_not_forget(task, blocks, tmp_path_factory, monkeypatch):
    """Running parity and the word problem of S3, trained until solved: every symbol counts, however old."""
    from benchmarks import dynamics_models

    monkeypatch.setattr(dynamics_models, "CACHE", tmp_path_factory.getbasetemp() / "models")
    model, data = dynamics_models.build(task), dynamics_models.data(task, 12, 256)
    assert hs.evaluate(model, data.x, data.y)["accuracy"] > 0.999
    options = dict(block_size=256 // blocks, withheld="mean+swap" if blocks == 16 else "mean")
    ours, exact = (hs.credit(model, data.x, data.y, exact=e, **options) for e in ("auto", True))
    assert exact.block.max() > 5
    assert spearman(ours.block, exact.block) >= 0.95
    assert max(float((a - b).abs().max()) for a, b in zip(ours.nodes, exact.nodes, strict=True)) < 0.2
    assert ours.method == ("exact" if blocks == 16 else "exact instead of fast")
    fast = hs.credit(model, data.x, data.y, exact=False, **options)
    assert spearman(fast.block, exact.block) >= (0.95 if blocks == 16 else 0.85)
