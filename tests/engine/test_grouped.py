"""Grouped execution with the loss inside the groups: the same loss, gradient and per-block losses, group by group."""

import pytest
import torch
from cases import ALL, batch, gradient, model
from hypothesis import given, settings
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.engine import Shape
from hbll_seq.losses import objective
from hbll_seq.models import SequenceModel
from hbll_seq.models.recurrent import sequential
from hbll_seq.rules.execute import deployed_loss

EXACT = dict(sweeps=12, feedback=12, check_every=0)


def pair(net, data, *, group, block=5):
    """Loss, gradient and per-block losses of both executions."""
    found = []
    for options in (dict(group=group), dict()):
        rule = hs.rules.make("hbll", block_size=block, **EXACT, **options)
        grad = gradient(rule, net, data)
        result = rule.step(net, data)
        net.zero_grad()
        found.append((result.loss, grad, result.block_loss))
    return found


def same(one, two, **tolerance):
    assert one[0] == pytest.approx(two[0], rel=tolerance.get("rtol", 1e-9))
    torch.testing.assert_close(one[1], two[1], **tolerance)
    if one[2] is None or two[2] is None:
        assert one[2] is None and two[2] is None
    else:
        torch.testing.assert_close(one[2].float(), two[2].float(), equal_nan=True)


@pytest.mark.parametrize("task", ["step", "sequence"])
@pytest.mark.parametrize("cell", ALL)
def test_groups_change_nothing(cell, task):
    net = model(cell, task=task)
    for lengths in (None, [33, 20, 4]):
        same(*pair(net, batch(3, 33, lengths=lengths, task=task), group=2))


@settings(deadline=None, max_examples=30)
@given(b=st.integers(1, 4), t=st.integers(1, 40), block=st.integers(1, 12), group=st.integers(1, 6))
def test_any_shape(b, t, block, group):
    same(*pair(model("gru"), batch(b, t), group=group, block=block))


def test_regression_with_a_mask():
    torch.manual_seed(0)
    net = SequenceModel(3, 2, input_kind="features", objective="mse", hidden=6, cell="lstm", timescale=20.0).double()
    x, y = torch.randn(2, 31, 3).double(), torch.randn(2, 31, 2).double()
    mask = torch.rand(2, 31) < 0.3
    data = Batch(x, torch.tensor([31, 31]), y, mask)
    same(*pair(net, data, group=3))


def test_the_compiled_roll_in_groups():
    net = model("gru", hidden=24).float()
    same(*pair(net, batch(4, 90), group=2, block=8), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["step", "sequence"])
def test_the_deployed_loss_in_chunks_is_that_of_the_chain(task, monkeypatch):
    monkeypatch.setattr("hbll_seq.rules.execute.CHUNK", 7)
    net, data = model("gru", task=task), batch(3, 33, lengths=[33, 20, 4], task=task)
    with torch.no_grad():
        whole = float(objective(net.objective, net(data.x, data.lengths, execute=sequential), data)[0])
    assert deployed_loss(net, data, grouped=True) == pytest.approx(whole, rel=1e-9)


def test_a_stack_keeps_its_outputs_and_agrees_too():
    same(*pair(model("gru", layers=2), batch(3, 33), group=2))


def test_a_budget_shortens_the_blocks_until_a_group_fills_the_machine():
    net, data = model("gru", hidden=64).float(), batch(1, 8192)
    rule = hs.rules.make("hbll", memory="8MB", execution="parallel", check_every=0)
    loss = rule.step(net, data).loss
    wide = hs.rules.make("hbll", execution="parallel", check_every=0)
    cell, like, shape = net.cells[0], net.readout.weight, Shape(1, 8192, wide.engine.credit_block(8192, 1))
    small, large = (one.engine.schedule(cell, shape, like) for one in (rule, wide))
    assert small.block < large.block and small.group is not None and large.group is None
    assert shape.credit == rule.engine.credit_block(8192, 1)  # what is learned does not depend on memory
    assert loss == pytest.approx(wide.step(net, data).loss, rel=1e-3)
