"""The Triton roll by Triton's interpreter on the CPU, in a process of its own (triton reads the variable when imported)."""

import importlib.util
import os
import subprocess
import sys

import pytest

ROLL = """
import torch
from torch import nn
from hbll_seq.kernels.gru import GRURoll
from hbll_seq.kernels.triton_gru import TritonGRURoll

def close(got, exact):
    torch.testing.assert_close(got.double(), exact, rtol=2e-5, atol=2e-5)

for k, n, d in (1, 1, 1), (3, 5, 7), (2, 17, 16), (4, 33, 70):
    torch.manual_seed(d)
    net = nn.GRU(d, d)
    w, b = net.weight_hh_l0.detach(), net.bias_hh_l0.detach()
    gi, h = torch.randn(k, n, 3 * d), torch.randn(n, d).tanh()
    exact = GRURoll(gi.double(), w.double(), b.double(), h.double(), keep=True)
    ends = TritonGRURoll(gi, w, b, h, keep=False)
    assert ends.outputs is None
    close(ends.end, exact.end)
    close(ends.carry, exact.carry)
    roll = TritonGRURoll(gi, w, b, h, keep=True)
    close(roll.outputs, exact.outputs)
    close(roll.end, exact.end)
    close(roll.carry, exact.carry)
    for dout, dend in (torch.randn(k, n, d), torch.randn(n, d)), (None, torch.randn(n, d)), (torch.randn(k, n, d), None):
        before = None if dend is None else dend.clone()
        double = [None if g is None else g.double() for g in (dout, dend)]
        close(roll.backward_state(dout, dend), exact.backward_state(*double))
        assert dend is None or torch.equal(dend, before)
        for one, two in zip(roll.weight_grads(), exact.weight_grads(), strict=True):
            close(one.flatten(), two.flatten())
"""

BF16 = """
import torch
from torch import nn
from hbll_seq.kernels.gru import GRURoll
from hbll_seq.kernels.triton_gru import TritonGRURoll

k, n, d = 4, 33, 70
torch.manual_seed(0)
net = nn.GRU(d, d)
w, b = net.weight_hh_l0.detach(), net.bias_hh_l0.detach()
gi, h, dout = torch.randn(k, n, 3 * d), torch.randn(n, d).tanh(), torch.randn(k, n, d)

def everything(kind, bf16):
    roll = kind(gi, w, b, h, keep=True, bf16=bf16)
    found = [roll.outputs.clone(), roll.end, roll.carry, roll.backward_state(dout, h)]
    return found + [one.clone() for one in roll.weight_grads()]

by_triton, by_torch, exact = everything(TritonGRURoll, True), everything(GRURoll, True), everything(GRURoll, False)
error = lambda p, q: float((p - q).norm() / q.norm())
for p, q, r in zip(by_triton, by_torch, exact, strict=True):
    assert p.dtype == q.dtype == torch.float32
    # the same factors, but torch rounds the products once more, and the interpreter cuts off where a GPU rounds
    assert error(p, q) < 6e-3 and error(p, r) < 1e-2
assert error(by_triton[0], exact[0]) > 2e-4
"""

STEP = """
import torch
import hbll_seq as hs
from hbll_seq import rules, step
from hbll_seq.data.batch import Batch
from hbll_seq.cells import gru
import hbll_seq.cells.base, hbll_seq.engine.block_loss, hbll_seq.cells.symbol_cell
from hbll_seq.kernels.triton_gru import TritonGRURoll

x = torch.randint(0, 9, (3, 41), generator=torch.Generator().manual_seed(0))
batch = Batch(x[:, :-1].contiguous(), torch.full((3,), 40), x[:, 1:].contiguous(), None)

def gradients():
    model = hs.models.CharLM(9, hidden=12, layers=2, seed=0)
    rule = rules.make("hbll", block_size=5, execution="parallel", check_every=0)
    rule.setup(model, torch.Generator().manual_seed(0))
    rule.step(model, batch, progress=0.5)
    return torch.cat([p.grad.flatten() for p in model.parameters()])

compiled = gradients()
made = []
class Counted(TritonGRURoll):
    def __init__(self, *a, **k):
        made.append(1)
        super().__init__(*a, **k)
import hbll_seq.kernels.triton_gru
hbll_seq.kernels.triton_gru.TritonGRURoll = Counted
for module in gru, hbll_seq.cells.base, hbll_seq.engine.block_loss, hbll_seq.cells.symbol_cell:
    module.fused = lambda x: False  # as on a GPU
by_triton = gradients()
assert made
torch.testing.assert_close(by_triton, compiled, rtol=1e-4, atol=1e-6)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("script", [ROLL, BF16, STEP], ids=["roll", "bf16", "step"])
def test_by_the_interpreter(script):
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
