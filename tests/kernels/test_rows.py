"""What surrounds the compiled rolls: softmax with its gradient, adding up rows by index, against PyTorch in float64."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hbll_seq.kernels import cross_entropy, machine
from hbll_seq.kernels.cross_entropy import linear_cross_entropy
from hbll_seq.kernels.emit_team import Target


def exact(h, weight, bias, y, weights):
    leaves = [t.double().requires_grad_() for t in (h, weight, bias)]
    losses = functional.cross_entropy(functional.linear(leaves[0], leaves[1], leaves[2]), y, reduction="none")
    return losses.detach(), torch.autograd.grad((losses * weights.double()).sum(), leaves)


def compare(m, v, d, *, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    h, weight, bias = (scale * torch.randn(*s, generator=g) for s in ((m, d), (v, d), (v,)))
    y, weights = torch.randint(v, (m,), generator=g), torch.rand(m, generator=g)
    losses, grads = exact(h, weight, bias, y, weights)
    got = linear_cross_entropy(h, weight, bias, y, weights, gradients=True)
    torch.testing.assert_close(got.losses.double(), losses, rtol=1e-5, atol=1e-5 * max(1.0, float(losses.max())))
    for one, two in zip((got.dh, got.weight, got.bias), grads, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=0, atol=2e-5 * max(1.0, float(two.abs().max())))


@settings(deadline=None, max_examples=40)
@given(m=st.integers(1, 70), v=st.integers(1, 50), d=st.integers(1, 20), seed=st.integers(0, 99))
def test_read_out_of_any_shape(m, v, d, seed):
    compare(m, v, d, seed=seed)


@pytest.mark.parametrize("threads", [1, 2])
def test_in_slices_and_on_threads(threads, monkeypatch):
    monkeypatch.setattr(machine, "SMALL", 1)
    monkeypatch.setattr(cross_entropy, "SLICE", 256)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(133, 23, 12)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("width,registers", [(4, 16), (8, 16)])
def test_other_vector_widths(width, registers, monkeypatch):
    own = machine.target()
    monkeypatch.setattr(machine, "target", lambda: Target(width, registers, own.team))
    monkeypatch.setattr(machine, "softmax", functools.cache(machine.softmax.__wrapped__))
    monkeypatch.setattr(machine, "_named", lambda name: f"{name}_rows_{width}")
    compare(21, 13, 5)


def test_large_logits_stay_finite():
    compare(40, 9, 6, scale=30.0)


def test_without_bias_and_without_gradients_on_the_weights():
    h, weight, y = torch.randn(9, 4), torch.randn(6, 4), torch.randint(6, (9,))
    got = linear_cross_entropy(h, weight, None, y, torch.ones(9), gradients=False)
    torch.testing.assert_close(got.losses, functional.cross_entropy(h @ weight.t(), y, reduction="none"))
    assert got.weight is None and got.bias is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad):
    h = torch.randn(5, 4)
    h[2, 1] = bad
    got = linear_cross_entropy(h, torch.randn(6, 4), None, torch.zeros(5, dtype=torch.int64), torch.ones(5), gradients=False)  # fmt: skip
    assert not got.losses[2].isfinite() and got.losses[[0, 1, 3, 4]].isfinite().all()


@settings(deadline=None, max_examples=30)
@given(m=st.integers(1, 60), v=st.integers(1, 9), vectors=st.integers(1, 5), more=st.integers(0, 20))
def test_adding_up_by_index(m, v, vectors, more):
    wide = vectors * machine.target().width
    values, index, table = torch.randn(m, wide + more), torch.randint(v, (m,)), torch.randn(v, wide)
    want = table.double().index_add(0, index, values[:, :wide].double())
    machine.add_by_index()([values, index, table], m, vectors, wide + more)
    torch.testing.assert_close(table.double(), want, rtol=1e-5, atol=1e-5)
