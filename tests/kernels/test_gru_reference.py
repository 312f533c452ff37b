"""The GRU roll in torch against autograd; the compiled ones are in test_fused.py."""

import pytest
import torch
from torch import nn

from hbll_seq.kernels.gru_reference import ReferenceGRURoll

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
    "dtype,tolerance",
    [(torch.float64, 1e-10), (torch.float32, 3e-5)],
)
def test_forward_and_backward_equal_autograd(dtype, tolerance, k, n, d):
    net, gi, h, out = reference(k, n, d, dtype)
    same = dict(rtol=tolerance, atol=tolerance)
    w, b = net.weight_hh_l0.detach(), net.bias_hh_l0.detach()
    roll = ReferenceGRURoll(gi.detach(), w, b, h.detach(), keep=True)
    ends = ReferenceGRURoll(gi.detach(), w, b, h.detach(), keep=False)
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


def test_carry_is_the_product_of_the_diagonals():
    k, n, d = 4, 2, 3
    net, gi, h, _ = reference(k, n, d, torch.float64)
    roll = ReferenceGRURoll(gi.detach(), net.weight_hh_l0.detach(), net.bias_hh_l0.detach(), h.detach(), keep=True)
    product, states = torch.ones(n, d).double(), [h.detach(), *roll.outputs.detach()]
    for step in range(k):
        for row in range(n):
            one = lambda s: ReferenceGRURoll(
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
