"""The compiled rolls against autograd in float64, for every recipe, shape, vector width and number of threads."""

import copy
import functools
import itertools
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hbll_seq import cells
from hbll_seq.cells.base import AutogradRoll
from hbll_seq.cells.fused import CellRoll
from hbll_seq.cells.symbol_cell import SymbolCell
from hbll_seq.kernels import machine
from hbll_seq.kernels import roll as kernel_roll
from hbll_seq.kernels.emit_team import Target

_numbers = itertools.count()  # compiled functions need names of their own
NAMES = ["gru", "lstm", "tanh", "relu", "mingru", "gru without bias"]


def make(name, inputs, d):
    torch.manual_seed(d)
    if name in ("tanh", "relu"):
        module = nn.RNN(inputs, d, nonlinearity=name, batch_first=True)
    elif name == "gru without bias":
        module = nn.GRU(inputs, d, bias=False, batch_first=True)
    else:
        module = cells.build(name, inputs, d, 1)
    return module, cells.adopt(module, inputs)[0]


def close(got, exact, tolerance):
    scale = max(1.0, float(exact.abs().max())) if exact.numel() else 1.0
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=tolerance * scale)


def compare(name, k, n, inputs, d, *, dout, dend, keep=True):
    module, cell = make(name, inputs, d)
    x, start = torch.randn(k, n, inputs), torch.randn(n, cell.state_size).clamp(-0.9, 0.9)
    roll = cell.roll(x, start, keep=keep)
    assert isinstance(roll, CellRoll)
    exact_cell = cells.adopt(copy.deepcopy(module).double(), inputs)[0]
    exact = AutogradRoll(exact_cell, x.double(), start.double(), keep=True)
    close(roll.end, exact.end, 2e-6)
    close(roll.carry, exact.carry, 2e-6)
    assert (roll.link is None) == (exact.link is None)
    if roll.link is not None:
        close(roll.link, exact.link, 2e-6)
    if not keep:
        assert roll.outputs is None
        return
    close(roll.outputs, exact.outputs, 2e-6)
    g = torch.randn(k, n, d) if dout else None
    e = torch.randn(n, cell.state_size) if dend else None
    close(roll.backward_state(g, e), exact.backward_state(None if g is None else g.double(), None if e is None else e.double()), 1e-5)  # fmt: skip
    exact_dx, exact_grads = exact.gradients()
    for dx, grads in (roll.gradients(), roll.backward(g, e)[1:]):
        close(dx, exact_dx, 1e-5)
        for p, q in zip(grads, exact_grads, strict=True):
            close(p, q, 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 2, 5), (16, 37, 4, 16), (5, 7, 3, 33), (9, 64, 8, 48)])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_autograd(name, shape, threads, monkeypatch):
    monkeypatch.setattr(machine, "SMALL", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(name, *shape, dout=True, dend=True)
        compare(name, *shape, dout=True, dend=False)
        compare(name, *shape, dout=False, dend=True)
        compare(name, *shape, dout=False, dend=False, keep=False)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 9), n=st.integers(1, 40), inputs=st.integers(1, 5), d=st.integers(1, 40))
def test_equals_autograd_for_any_shape(name, k, n, inputs, d):
    compare(name, k, n, inputs, d, dout=True, dend=True)


@pytest.mark.parametrize("name", ["gru", "lstm", "tanh", "mingru"])
@pytest.mark.parametrize("width,registers", [(4, 16), (4, 32), (8, 16)])
def test_other_vector_widths(name, width, registers, monkeypatch):
    own = machine.target()
    monkeypatch.setattr(machine, "target", lambda: Target(width, registers, own.team))
    for function in ("forward", "backward"):
        fresh = functools.cache(getattr(machine, function).__wrapped__)
        monkeypatch.setattr(machine, function, fresh)
    suffix = next(_numbers)
    monkeypatch.setattr(machine, "_named", lambda name: f"{name}_{width}_{registers}_{suffix}")
    compare(name, 4, 21, 3, 24, dout=True, dend=True)


@pytest.fixture
def sharing_units(monkeypatch):
    """Sets the number of threads; small rolls share units as wide ones do."""
    monkeypatch.setattr(machine, "SMALL", 1)
    monkeypatch.setattr(machine, "WIDE", 0)
    monkeypatch.setattr(machine, "WAITS", 10**9)  # however busy the machine is
    monkeypatch.setattr(machine._busy, "until", 0.0)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 1, 3, 130), (4, 3, 2, 64), (5, 21, 3, 33), (3, 2, 3, 96)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_that_share_units_equal_autograd(name, shape, threads, sharing_units):
    sharing_units(threads)
    assert machine.shares_units(shape[1], shape[3]) == (threads > 1)
    compare(name, *shape, dout=True, dend=True)
    compare(name, *shape, dout=False, dend=True)
    compare(name, *shape, dout=False, dend=False, keep=False)


@pytest.mark.parametrize("name", ["gru", "lstm", "tanh", "mingru"])
@pytest.mark.parametrize("width,registers", [(4, 16), (8, 16)])
def test_units_are_shared_at_other_vector_widths(name, width, registers, sharing_units, monkeypatch):
    sharing_units(3)
    test_other_vector_widths(name, width, registers, monkeypatch)
    compare(name, 4, 2, 3, 72, dout=True, dend=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_share_units_mark_and_discount(name, threads, sharing_units):
    sharing_units(threads)
    for shape in ((9, 1, 70, 2), (5, 3, 40, 3), (8, 5, 33, 8)):
        assert machine.shares_units(shape[1], shape[2])  # else this were the other test again, which compares
        test_one_call_marks_states_and_discounts_between_credit_blocks.hypothesis.inner_test(name, *shape)


@pytest.mark.parametrize("rows,d", [(50, 24), (1, 100), (3, 128)])
def test_threads_do_not_change_a_bit(rows, d, sharing_units):
    _, cell = make("gru", 4, d)
    x, start, g = torch.randn(6, rows, 4), torch.zeros(rows, d), torch.randn(6, rows, d)
    results = []
    given = cell.projected(x).clone()  # PyTorch's product, which may change with the number of threads
    for threads in (1, 2, 3):
        sharing_units(threads)
        roll = cell.roll(x, start, keep=True, projected=given)
        results.append((roll.end, roll.backward_state(g, None)))
    for one in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(one, results[0], strict=True))


def test_a_busy_machine_has_threads_share_rows_for_a_while(sharing_units, monkeypatch):
    sharing_units(2)
    assert machine.shares_units(1, 64)
    monkeypatch.setattr(machine, "LEAST", -1)
    monkeypatch.setattr(machine, "WAITS", 0.0)  # any wait is too long
    compare("gru", 3, 1, 2, 64, dout=True, dend=True)
    assert not machine.shares_units(1, 64)
    compare("gru", 3, 1, 2, 64, dout=True, dend=True)
    monkeypatch.setattr(machine._busy, "until", machine._busy.until - machine.PAUSE)
    assert machine.shares_units(1, 64)


def test_rows_are_shared_where_they_come_out_even_and_units_where_not(monkeypatch):
    monkeypatch.setattr(machine._busy, "until", 0.0)
    even = [(1, 1), (2, 8), (2, 16), (2, 101), (4, 16), (16, 64)]
    uneven = [(2, 1), (2, 4), (2, 7), (2, 12), (4, 8), (4, 20)]
    for threads, rows, units in [*((*e, False) for e in even), *((*u, True) for u in uneven)]:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert machine.shares_units(rows, 512) == units, (threads, rows)
        assert not machine.shares_units(1, 16)  # a step shorter than waiting for each other


def test_without_openmp_it_runs_on_one_thread(sharing_units, monkeypatch):
    monkeypatch.setattr(machine, "_openmp", lambda: None)
    sharing_units(2)
    compare("gru", 4, 40, 3, 16, dout=True, dend=True)
    compare("gru", 4, 1, 3, 80, dout=True, dend=True)


FIRST_USE = """
import threading, torch
from torch import nn
from hbll_seq import cells

def use(kind, gate):
    cell = cells.adopt(kind(2, 16, batch_first=True), 2)[0]
    gate.wait()
    cell.roll(torch.randn(2, 3, 2), torch.zeros(3, cell.state_size), keep=True).backward_state(torch.ones(2, 3, 16), None)

kinds = [nn.GRU, nn.LSTM, nn.RNN] * 3
gate = threading.Barrier(len(kinds))
threads = [threading.Thread(target=use, args=(kind, gate)) for kind in kinds]
for one in threads: one.start()
for one in threads: one.join()
print("done")
"""


def test_many_threads_may_be_the_first_to_use_a_kernel():
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n" and not done.stderr, done.stderr


EXTREMES = np.concatenate([np.linspace(-120, 120, 20001), [0, -0.0, 1e-30, -1e-30, 3e38, -3e38, np.inf, -np.inf]])


def test_tanh_and_sigmoid_over_the_whole_range():
    x = torch.tensor(EXTREMES, dtype=torch.float32).view(1, -1, 1)
    module = nn.RNN(1, 1, batch_first=True)
    for p in module.parameters():
        nn.init.zeros_(p)
    nn.init.ones_(module.weight_ih_l0)
    got = cells.adopt(module, 1)[0].roll(x, torch.zeros(x.shape[1], 1), keep=False).end
    assert (got.double() - x[0].double().tanh()).abs().max() < 5e-7
    lstm = nn.LSTM(1, 1, batch_first=True)
    for p in lstm.parameters():
        nn.init.zeros_(p)
    with torch.no_grad():
        lstm.weight_ih_l0[1] = 1.0  # the forget gate alone: c' = sigmoid(x) c
    x = x[:, x.isfinite().flatten()]  # infinity times the other gates' zeros is no number
    start = torch.tensor([[1.0, 0.0]]).expand(x.shape[1], 2)
    got = cells.adopt(lstm, 1)[0].roll(x, start, keep=False).end[:, :1]
    assert (got.double() - x[0].double().sigmoid()).abs().max() < 3e-7


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_hidden_and_stays_in_its_row(name):
    _, cell = make(name, 2, 20)
    start = torch.zeros(12, cell.state_size)
    start[3] = float("nan")
    roll = cell.roll(torch.randn(3, 12, 2), start, keep=True)
    rows = roll.end.isnan().any(1)
    assert rows[3] and rows.sum() == 1
    back = roll.backward_state(torch.full((3, 12, 20), float("nan")), None)
    assert back.isnan().any()


def test_rolls_do_not_share_work_buffers():
    _, cell = make("gru", 3, 16)
    x, start = torch.randn(4, 9, 3), torch.zeros(9, 16)
    first = cell.roll(x, start, keep=True)
    kept = first.outputs.clone()
    cell.roll(x * 2, start, keep=True)  # gone at once: its buffers go back
    cell.roll(x * 3, start, keep=True)
    assert torch.equal(first.outputs, kept)


@pytest.mark.parametrize("symbols", [7, 300])  # added up by a product with one-hot rows, and row by row
@pytest.mark.parametrize("name", NAMES)
def test_symbols_equal_embedding_first(name, symbols):
    module, inner = make(name, 5, 18)
    table = nn.Parameter(torch.randn(symbols, 5))
    cell, x = SymbolCell(inner, table), torch.randint(0, symbols, (6, 11, 1))
    start = torch.zeros(11, cell.state_size)
    g = torch.randn(6, 11, 18)
    one, two = cell.roll(x, start, keep=True), inner.roll(table.detach()[x[..., 0]], start, keep=True)
    close(one.outputs, two.outputs.double(), 2e-6)
    close(one.backward_state(g, None), two.backward_state(g, None).double(), 1e-5)
    dx, exact = two.gradients()
    by_symbol = torch.zeros(symbols, 5).double().index_add_(0, x.flatten(), dx.flatten(0, 1).double())
    for none, (dtable, *grads) in (one.gradients(), one.backward(g, None)[1:]):
        assert none is None
        close(dtable, by_symbol, 1e-5)
        for p, q in zip(grads, exact, strict=True):
            close(p, q.double(), 1e-5)
    slow = SymbolCell(cells.adopt(copy.deepcopy(module).double(), 5)[0], nn.Parameter(table.detach().double()))
    three = slow.roll(x, start.double(), keep=True)  # float64: no compiled roll
    close(one.end, three.end, 2e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(t=st.integers(1, 23), n=st.integers(1, 9), d=st.integers(1, 20), every=st.integers(1, 25))
def test_one_call_marks_states_and_discounts_between_credit_blocks(name, t, n, d, every):
    """`whole` over T steps equals rolls of `every` steps, each handed a message that the discount has scaled."""
    _, cell = make(name, 3, d)
    x, start = torch.randn(t, n, 3), torch.randn(n, cell.state_size).clamp(-0.9, 0.9)
    g, e = torch.randn(t, n, d), torch.randn(n, cell.state_size)
    pieces = x.split(every)
    factors = torch.rand(len(pieces), n)
    roll = cell.whole(x, start, keep=True, every=every)
    rolls, states = [], [start]
    for piece in pieces:
        rolls.append(cell.roll(piece.contiguous(), states[-1], keep=True))
        states.append(rolls[-1].end)
    for one in (roll, cell.whole(x, start, keep=False, every=every)):
        assert one.marks.shape == (len(pieces) - 1, n, cell.state_size)
        close(one.end, states[-1].double(), 1e-6)
        if len(pieces) > 1:
            close(one.marks, torch.stack(states[1:-1]).double(), 1e-6)
    message, total = e, None
    for i in reversed(range(len(pieces))):
        last = i + 1 == len(pieces)
        message = rolls[i].backward_state(g.split(every)[i], message if last else message * factors[i, :, None])
        dx, grads = rolls[i].gradients()
        total = grads if total is None else [p + q for p, q in zip(total, grads, strict=True)]
    for size in (kernel_roll.SLICE, 3 * n * d, 1):  # slices of the whole, of some credit blocks, of a step
        with mock.patch.multiple(kernel_roll, SLICE=size, TALL=0):
            start, _, grads = roll.backward(g, e, factors, every)
            close(start, message.double(), 1e-5)
            close(roll.backward_state(g, e, factors, every), message.double(), 1e-5)
            for found in (grads, roll.gradients()[1]):
                for p, q in zip(found, total, strict=True):
                    close(p, q.double(), 1e-5)
