"""Threads that are the first to use the kernels, all at once: each process is fresh, and the results are those of one thread."""

import importlib.util
import os
import subprocess
import sys

import pytest

FIRST_USES = """
import sys, threading
import torch
from torch import nn
from hbll_seq import cells
from hbll_seq.cells import SymbolCell
from hbll_seq.kernels.cross_entropy import linear_cross_entropy
from hbll_seq.kernels.roll import rounds
from hbll_seq.kernels.scan import prefix_scan, reverse_scan

torch.set_num_threads(1)
KINDS = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN, "mingru": cells.MinGRU}


def make(number):
    '''A cell and a shape of its own for every thread, by turns those that others compile at the same moment.'''
    torch.manual_seed(number)  # torch has one generator for all threads: things are made before these start
    name = list(KINDS)[(number + SHIFT) % 4]
    d, k, n = (16, 24, 5, 33)[number // 2 % 4], 2 + number % 3, 1 + 3 * (number % 4)
    module = KINDS[name](d, d, **({} if name == "mingru" else {"batch_first": True}))
    cell = cells.adopt(module, d)[0]
    table = nn.Parameter(torch.randn(7, d))
    x, y = torch.randint(7, (k, n, 1)), torch.randint(5, (k * n,))
    weight = torch.randn(5, d)
    state, g = torch.randn(n, cell.state_size).tanh(), torch.randn(k, n, d)
    maps = torch.rand(6, n, d), torch.randn(6, n, d)
    return name, cell, SymbolCell(cell, table), table, x, y, weight, state, g, maps


def use(number, made):
    '''Everything that is compiled at its first use, in an order of its own.'''
    name, cell, by_symbol, table, x, y, weight, state, g, (a, b) = made
    found = []

    def roll(one, given):
        with one.roll(given, state, keep=True) as it:
            found.extend([it.outputs.clone(), it.end, it.carry, it.backward_state(g, None), *it.gradients()[1]])

    def whole():
        with cell.whole(table.detach()[x[..., 0]], state, keep=True, every=1) as it:
            found.extend([it.marks, *it.backward(g, state, torch.full((len(x), len(state)), 0.5), 1)[2]])

    def ends():
        with cell.roll(table.detach()[x[..., 0]], state, keep=False) as it:
            found.append(it.end)

    def loss():
        out = linear_cross_entropy(g.flatten(0, 1), weight, None, y, torch.ones(len(y)), gradients=True)
        found.extend([out.losses, out.dh, out.weight])

    def scans():
        found.extend([prefix_scan(a, b, a[0]), reverse_scan(a, b, a[0])])

    def bf16():
        if rounds() and name != "mingru":
            roll(cells.MixedCell(cell), table.detach()[x[..., 0]])

    steps = [lambda: roll(cell, table.detach()[x[..., 0]]), lambda: roll(by_symbol, x), whole, ends, loss, scans, bf16]
    parts = []
    for i in range(len(steps)):
        found = []
        turn = (i + number) % len(steps)
        steps[turn]()
        parts.append((turn, [one.detach().clone() for one in found]))
    return [one for _, some in sorted(parts, key=lambda part: part[0]) for one in some]


def run(number):
    gate.wait()
    torch.set_num_threads(1)
    results[number] = use(number, made[number])


SHIFT, THREADS = int(sys.argv[1]), 8
made = [make(i) for i in range(THREADS)]
results, gate = {}, threading.Barrier(THREADS)
threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
for one in threads: one.start()
for one in threads: one.join()
assert sorted(results) == list(range(THREADS)), sorted(results)
count = 0
for number in range(THREADS):
    for p, q in zip(results[number], use(number, make(number)), strict=True):
        assert torch.equal(p, q), (number, float((p - q).abs().max()))
        count += 1
print(count, "equal")
"""


@pytest.mark.parametrize("shift", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 8))])
def test_first_uses_in_eight_threads_give_what_one_thread_gives(shift):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", FIRST_USES, str(shift)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr)
    count, word = done.stdout.split()
    assert word == "equal" and int(count) > 150


BY_TRITON = """
import threading, torch
from torch import nn
from hbll_seq.kernels.gru_reference import ReferenceGRURoll
from hbll_seq.kernels.scan import prefix_scan
from hbll_seq.kernels.triton_gru import TritonGRURoll

def use(number):
    gate.wait()
    g = torch.Generator().manual_seed(number)
    d, n = 3 + number, 2 + number
    gi, w, b, h = (torch.randn(*s, generator=g) for s in ((2, n, 3 * d), (3 * d, d), (3 * d,), (n, d)))
    a = torch.rand(5, n, generator=g)
    for _ in range(2):
        exact = ReferenceGRURoll(gi, w, b, h, keep=True)
        with TritonGRURoll(gi, w, b, h, keep=True) as roll:
            torch.testing.assert_close(roll.outputs, exact.outputs, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(roll.backward_state(gi[..., :d], h), exact.backward_state(gi[..., :d], h), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(prefix_scan(a, a, a[0], backend="triton"), prefix_scan(a, a, a[0], backend="torch"))
    fine.append(number)

fine, gate = [], threading.Barrier(8)
threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
for one in threads: one.start()
for one in threads: one.join()
assert len(fine) == 8, fine
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_is_started_by_one_thread_at_a_time():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", BY_TRITON], check=True, env=environment, timeout=300)
