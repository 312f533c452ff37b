"""The fused GRU roll against nn.GRU and autograd, in both of its forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hbll_seq.kernels import gru
from hbll_seq.kernels.gru import GRURoll, TorchGRURoll

SHAPES = [(1, 1, 1), (2, 3, 5), (16, 64, 8), (33, 3, 64), (5, 7, 17)]


def reference(k, n, d, dtype):
    torch.manual_seed(k * 100 + n * 10 + d)
    net = nn.GRU(d, d).to(dtype)
    gi = (torch.randn(k, n, d, dtype=dtype) @ net.weight_ih_l0.T + net.bias_ih_l0).detach().requires_grad_()
    h = torch.randn(n, d, dtype=dtype).tanh().requires_grad_()
    start, out, i, f = h, [], net.weight_hh_l0, net.bias_hh_l0
    for step in range(k):
        gh = start @ i.T + f
        r, z = torch.sigmoid(gi[step, :, : 2 * d] + gh[:, : 2 * d]).split(d, 1)
        c = torch.tanh(gi[step, :, 2 * d :] + r * gh[:, 2 * d :])
        start = (1 - z) * c + z * start
        out.append(start)
    return net, gi, h, torch.stack(out)


@pytest.mark.parametrize("k,n,d", SHAPES)
@pytest.mark.parametrize(
    "kind,dtype,tolerance",
    [
        (GRURoll, torch.float32, 3e-5),
        (TorchGRURoll, torch.float64, 1e-10),
        (TorchGRURoll, torch.float32, 3e-5),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_forward_and_backward_equal_autograd(kind, dtype, tolerance, k, n, d, threads, monkeypatch):
    monkeypatch.setattr(gru, "PARALLEL_FROM", 1)
    torch.set_num_threads(threads)
    net, gi, h, out = reference(k, n, d, dtype)
    same = dict(rtol=tolerance, atol=tolerance)
    w, b = net.weight_hh_l0.detach(), net.bias_hh_l0.detach()
    roll = kind(gi.detach(), w, b, h.detach(), keep=True)
    ends = kind(gi.detach(), w, b, h.detach(), keep=False)
    torch.testing.assert_close(roll.outputs, out.detach(), **same)
    torch.testing.assert_close(roll.end, out[-1].detach(), **same)
    assert ends.outputs is None
    torch.testing.assert_close(ends.end, roll.end, **same)
    torch.testing.assert_close(ends.carry, roll.carry, **same)
    for dout, dend in [
        (torch.randn_like(out), torch.randn_like(h)),
        (None, torch.randn_like(h)),
        (torch.randn_like(out), None),
    ]:
        total = (0 if dout is None else (out * dout).sum()) + (0 if dend is None else (out[-1] * dend).sum())
        exact = torch.autograd.grad(total, [h, gi, net.weight_hh_l0, net.bias_hh_l0], retain_graph=True)
        got = [roll.backward_state(dout, dend), *roll.weight_grads()]
        for p, q in zip(got, exact, strict=True):
            torch.testing.assert_close(p, q, **same)


def test_the_kernel_chosen_on_a_cpu_in_float32_is_the_fused_one():
    _, gi, h, _ = reference(2, 3, 4, torch.float32)
    assert type(gru.gru_roll(gi.detach(), torch.rand(12, 4), torch.rand(12), h.detach(), keep=True)) is GRURoll
    _, gi, h, _ = reference(2, 3, 4, torch.float64)
    assert (
        type(gru.gru_roll(gi.detach(), torch.rand(12, 4).double(), torch.rand(12).double(), h.detach(), keep=True))
        is TorchGRURoll
    )


def test_carry_is_the_product_of_the_diagonals():
    k, n, d = 4, 2, 3
    net, gi, h, _ = reference(k, n, d, torch.float64)
    roll = TorchGRURoll(gi.detach(), net.weight_hh_l0.detach(), net.bias_hh_l0.detach(), h.detach(), keep=True)
    product, states = torch.ones(n, d).double(), [h.detach(), *roll.outputs.detach()]
    for step in range(k):
        for row in range(n):
            one = lambda s: TorchGRURoll(
                gi.detach()[step : step + 1, row : row + 1],
                net.weight_hh_l0.detach(),
                net.bias_hh_l0.detach(),
                s[None],
                keep=False,
            ).end[0]  # noqa: E731, E501
            for j in range(d):  # central differences, one unit at a time
                e = torch.zeros(d).double()
                e[j] = 1e-6
                product[row, j] *= (one(states[step][row] + e)[j] - one(states[step][row] - e)[j]) / 2e-6
    torch.testing.assert_close(roll.carry, product, rtol=1e-6, atol=1e-9)


def test_the_fused_gates_are_right_over_the_whole_range():
    from numba import njit

    from hbll_seq.kernels import gru_pointwise as ops

    @njit
    def apply(x, s, t):
        for i in range(x.shape[0]):
            s[i], t[i] = ops._sigmoid(x[i]), ops._tanh(x[i])

    x = np.concatenate(
        [np.linspace(-120, 120, 200001), [0, -0.0, 1e-30, -1e-30, 3e38, -3e38, np.inf, -np.inf, np.nan]]
    ).astype(np.float32)
    s, t = np.empty_like(x), np.empty_like(x)
    apply(x, s, t)
    with np.errstate(over="ignore"):
        true_s, true_t = 1 / (1 + np.exp(-x.astype(np.float64))), np.tanh(x.astype(np.float64))
    finite = ~np.isnan(x)
    assert np.abs(s - true_s)[finite].max() < 3e-7 and np.abs(t - true_t)[finite].max() < 5e-7
    assert math.isnan(s[-1]) and math.isnan(t[-1])


def test_nan_in_a_state_is_not_hidden():
    _, gi, h, _ = reference(3, 2, 4, torch.float32)
    bad = h.detach().clone()
    bad[0, 0] = float("nan")
    roll = GRURoll(gi.detach(), torch.rand(12, 4), torch.rand(12), bad, keep=True)
    assert roll.end[0].isnan().any() and not roll.end[1].isnan().any()


def test_rolls_do_not_share_work_buffers():
    _, gi, h, _ = reference(4, 3, 5, torch.float32)
    w, b = torch.randn(15, 5), torch.randn(15)
    first = GRURoll(gi.detach(), w, b, h.detach(), keep=True)
    kept = first.outputs.clone()
    GRURoll(gi.detach() * 2, w, b, h.detach(), keep=True)  # gone at once: its buffers go back
    GRURoll(gi.detach() * 3, w, b, h.detach(), keep=True)
    assert torch.equal(first.outputs, kept)
