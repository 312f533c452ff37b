"""Passes over the loss: every block once, sums that belong to one pass, a work buffer with an owner."""

import pytest
import torch
from cases import batch
from torch import nn

from hbll_seq.data.batch import Batch
from hbll_seq.engine import block_loss
from hbll_seq.engine.block_loss import BlockLoss
from hbll_seq.engine.blocks import from_blocks, to_blocks
from hbll_seq.losses import objective

B, T, K, WIDTH, CLASSES = 3, 22, 5, 6, 7
CASES = {
    "compiled": dict(),
    "autograd": dict(dtype=torch.float64),
    "values": dict(kind="mse", dtype=torch.float64),
    "one target a sequence": dict(whole=True),
}


def case(*, kind="cross_entropy", whole=False, dtype=torch.float32):
    """A read-out, hidden outputs `(B, T, d)` and targets of unequal lengths."""
    data = batch(B, T, lengths=[22, 13, 4], symbols=CLASSES, task="sequence" if whole else "step")
    if kind == "mse":
        data = data._replace(y=torch.randn(B, T, CLASSES, dtype=dtype))
    torch.manual_seed(1)
    readout = nn.Linear(WIDTH, CLASSES).to(dtype)
    return readout, torch.randn(B, T, WIDTH, dtype=dtype), data, kind, whole


def exact(readout: nn.Linear, h: torch.Tensor, data: Batch, kind: str, whole: bool):
    """Loss, gradient on the outputs, and gradients of the read-out, by autograd over everything."""
    h = h.clone().requires_grad_()
    out = readout(h[torch.arange(B), data.lengths - 1] if whole else h)
    loss, per_step = objective(kind, out, data)
    dh, *own = torch.autograd.grad(loss, [h, *readout.parameters()])
    return loss.detach(), dh, own, per_step


def made(loss: BlockLoss, h: torch.Tensor, spans: list[tuple[int, int]]):
    """One pass: itself, and the gradient on the outputs."""
    blocks = to_blocks(h, loss.block)  # (K, n, B, d)
    dh = torch.zeros_like(blocks)
    with loss.new_pass() as scored:
        for first, stop in spans:
            given = scored(first, stop, blocks[:, first:stop].flatten(1, 2), True)
            if given is not None:
                dh[:, first:stop] = given.view(loss.block, stop - first, B, -1)
    return scored, from_blocks(dh, T)


@pytest.mark.parametrize("spans", [[(0, 5)], [(0, 2), (2, 4), (4, 5)], [(4, 5), (1, 4), (0, 1)]], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_pass_in_any_order_is_the_loss_of_the_whole_and_its_gradients(name, spans):
    readout, h, data, kind, whole = case(**CASES[name])
    loss = BlockLoss(readout, kind, whole, data, K, credit=10)
    assert loss.fused == (name == "compiled") and loss.blocks == 5
    expected, dh_exact, own, per_step = exact(readout, h, data, kind, whole)
    for _ in range(2):  # the second pass knows nothing of the first
        readout.zero_grad()
        scored, dh = made(loss, h, spans)
        scored.accumulate()
        assert scored.loss == pytest.approx(float(expected), rel=1e-5)
        torch.testing.assert_close(dh, dh_exact, rtol=1e-4, atol=1e-6)
        for p, g in zip(readout.parameters(), own, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)
        losses = scored.by_credit_block()
        if whole:
            assert losses is None
        else:
            means = [p.sum() / m.sum() for p, m in zip(per_step.split(10, 1), data.mask.split(10, 1), strict=True)]
            torch.testing.assert_close(losses, torch.stack(means).float(), rtol=1e-4, atol=1e-6)


@pytest.fixture
def loss():
    readout, _, data, kind, whole = case()
    return BlockLoss(readout, kind, whole, data, K)


def span(first, stop):
    return torch.randn(K, (stop - first) * B, WIDTH)


def test_a_block_is_asked_for_once_in_a_pass(loss):
    with (
        pytest.raises(RuntimeError, match=r"blocks 1\.\.2 were asked for again .*new_pass"),
        loss.new_pass() as scored,
    ):
        scored(0, 2, span(0, 2), False)
        scored(1, 3, span(1, 3), False)


@pytest.mark.parametrize("first,stop", [(-1, 1), (4, 6), (2, 2)])
def test_a_span_lies_inside_the_sequence(loss, first, stop):
    with pytest.raises(RuntimeError, match="were asked for, of 5"), loss.new_pass() as scored:
        scored(first, stop, span(0, 1), False)


def test_a_pass_asks_for_all_blocks(loss):
    with pytest.raises(RuntimeError, match=r"without blocks \[0, 3, 4\]"), loss.new_pass() as scored:
        scored(1, 3, span(1, 3), False)
    with pytest.raises(RuntimeError, match="broken off"):
        scored.loss  # noqa: B018


def test_nothing_is_asked_for_outside_the_pass_and_no_sum_read_inside(loss):
    scored = loss.new_pass()
    with pytest.raises(RuntimeError, match=r"blocks 0\.\.4 were asked for in a pass over the loss that is new"):
        scored(0, 5, span(0, 5), False)
    with scored:
        scored(0, 5, span(0, 5), True)
        for read in (lambda: scored.loss, scored.by_credit_block, scored.accumulate):
            with pytest.raises(RuntimeError, match="were read while it is open"):
                read()
    assert scored.loss > 0
    with pytest.raises(RuntimeError, match="that is over"):
        scored(0, 5, span(0, 5), False)
    with pytest.raises(RuntimeError, match="opened again"), scored:
        pass


def test_an_error_inside_a_pass_is_not_hidden_by_its_end(loss):
    with pytest.raises(ZeroDivisionError), loss.new_pass():
        raise ZeroDivisionError


def test_the_work_buffer_goes_back_with_the_next_span_and_with_the_end(loss, monkeypatch):
    given = []
    monkeypatch.setattr(block_loss, "give", lambda buffer: given.append(buffer.data_ptr()))
    with loss.new_pass() as scored:
        one = scored(0, 2, span(0, 2), False)
        assert not given  # it is the caller's for now
        two = scored(2, 5, span(2, 5), False)
        assert given == [one.data_ptr()]
    assert given == [one.data_ptr(), two.data_ptr()]
    with pytest.raises(ZeroDivisionError), loss.new_pass() as scored:
        three = scored(0, 5, span(0, 5), False)
        raise ZeroDivisionError
    assert given[2:] == [three.data_ptr()]
