"""The sequential execution: the same gradients as all blocks at once, whatever the discount, cell and lengths."""

import copy

import pytest
import torch
from cases import ALL, NAMED, batch, gradient, model

import hbll_seq as hs
from hbll_seq.rules.execute import inside

EXACT = dict(sweeps=20, feedback=20, check_every=0)


def make(execution, **options):
    return hs.rules.make("hbll", execution=execution, **options)


@pytest.mark.parametrize("discount", ["auto", 0.0, 0.3, 1.0])
@pytest.mark.parametrize("cell", ALL)
def test_both_orders_give_the_same_gradient(cell, discount):
    for layers in (1, 2):
        net, data = model(cell, layers=layers), batch(3, 37, lengths=[37, 20, 3])
        options = dict(block_size=6, discount=discount)
        one = gradient(make("parallel", **options, **EXACT), net, data)
        two = gradient(make("sequential", **options), net, data)
        torch.testing.assert_close(two, one)


@pytest.mark.parametrize("task", ["step", "sequence"])
@pytest.mark.parametrize("cell", NAMED)
def test_with_whole_credit_it_is_bptt(cell, task):
    net, data = model(cell, task=task), batch(3, 29, task=task)
    exact = gradient(hs.rules.make("bptt"), net, data)
    rule = make("sequential", block_size=8, discount=1.0)
    torch.testing.assert_close(gradient(rule, net, data), exact)
    metrics = rule.step(net, data).metrics
    assert metrics["depth"] == 2 * 29 and metrics["sweeps"] == 0 and metrics["inconsistency"] == 0


def test_float32_takes_the_fused_kernel_in_pieces():
    net, data = model("gru", hidden=16).float(), batch(4, 50)
    one = gradient(make("parallel", block_size=8, **EXACT), net, data)
    two = gradient(make("sequential", block_size=8), net, data)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


def test_divergence_is_found_in_its_block():
    net, data = model("gru").float(), batch(2, 24)
    with torch.no_grad():
        net.embedding.weight[3] = torch.inf
    data.x[data.x == 3] = 4
    data.x[:, 10] = 3
    result = make("sequential", block_size=8).step(net, data)
    assert torch.isfinite(result.block_loss[0]) and not torch.isfinite(result.block_loss[1])


def test_it_trains_and_resumes_like_any_other(tmp_path):
    text = (torch.arange(600) * 7) % 5
    runs = []
    for stop in (None, 4):
        net = hs.models.CharLM(5, hidden=8)
        options = dict(rule="hbll", execution="sequential", steps=8, batch_size=3, window=40, progress=False)
        if stop:
            halt = type("Stop", (), {"on_step_end": lambda self, run, step: step == 4})()
            hs.fit(net, text, checkpoint=tmp_path / "c", checkpoint_every=4, callbacks=[halt], **options)
            net = hs.models.CharLM(5, hidden=8)
            hs.fit(net, text, checkpoint=tmp_path / "c", resume=True, **options)
        else:
            hs.fit(net, text, **options)
        runs.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(*runs)


@pytest.mark.parametrize("task", ["step", "sequence"])
@pytest.mark.parametrize("cell", NAMED)
def test_the_loss_taken_on_the_way_back_is_that_of_the_whole(cell, task):
    """One layer in float32 goes through `step_one_layer`, float64 through autograd: the same numbers."""
    net, data = model(cell, task=task), batch(3, 33, lengths=[33, 20, 4], task=task)
    found = []
    for one in (net, copy.deepcopy(net).float()):
        rule = make("sequential", block_size=8, check_every=0)
        short = inside(one, data, rule.engine)
        grad = gradient(rule, one, data)
        result = rule.step(one, data)
        found.append((result.loss, grad.double(), result.block_loss, short))
    (loss, grad, blocks, whole), (loss32, grad32, blocks32, short) = found
    assert short and not whole
    assert loss32 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(grad32, grad, rtol=1e-3, atol=2e-6)
    if blocks is not None:
        torch.testing.assert_close(blocks32.float(), blocks.float(), equal_nan=True, rtol=1e-4, atol=1e-5)
