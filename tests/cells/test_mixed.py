"""bfloat16 products inside blocks: what is rounded, what is not, and that sweeps end where rounding is all that is left."""

import pytest
import torch
from cases import ALL, OwnCell, batch, gradient, model
from torch import nn

import hbll_seq as hs
from hbll_seq.cells import AutogradRoll, MixedCell, adopt
from hbll_seq.cells import mixed as mixed_cells
from hbll_seq.cells.fused import CellRoll
from hbll_seq.engine import Engine, Options
from hbll_seq.engine.controller import Controller
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.layer import run_layer
from hbll_seq.engine.options import FINEST_BF16
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.kernels import machine
from hbll_seq.kernels.roll import rounds
from hbll_seq.rules.execute import train

WHOLE = dict(check_every=0, discount=1.0)


def small(cell, **options):
    return model(cell, **{"hidden": 24} | options).float()


def error(p, q):
    return float((p - q).norm() / q.norm())


def everything(roll, dout, dend):
    """All that a roll gives, by name; asked twice, as the corrections do."""
    roll.backward_state(dout, None)
    found = dict(outputs=roll.outputs, end=roll.end, carry=roll.carry, start=roll.backward_state(dout, dend))
    dx, parameters = roll.gradients()
    return found | {"x": dx} | {f"parameter {i}": p for i, p in enumerate(parameters)}


@pytest.mark.parametrize("cell", ALL)
def test_a_roll_is_float32_within_bfloat16_of_the_float32_one(cell):
    layer = small(cell).cells[0]
    mixed = MixedCell(layer)
    x, state = torch.randn(5, 8, layer.input_size), torch.randn(8, layer.state_size).tanh()
    dout, dend = torch.randn(5, 8, layer.hidden_size), torch.randn(8, layer.state_size)
    roll = everything(mixed.roll(x, state, keep=True), dout, dend)
    generic = everything(AutogradRoll(mixed, x, state, keep=True), dout, dend)
    exact = everything(AutogradRoll(layer, x, state, keep=True), dout, dend)
    assert all(p.dtype == torch.float32 for p in roll.values())
    for name, p in roll.items():
        assert error(p, exact[name]) < 2e-2, name
        # a GRU is rolled by hand, the others by autograd: up to one more rounding, of a sum, the same
        assert error(p, generic[name]) < 4e-3, name
    assert error(roll["outputs"], exact["outputs"]) > 1e-4  # products are rounded indeed
    ends = mixed.roll(x, state, keep=False, projected=mixed.projected(x))
    assert ends.outputs is None and error(ends.end, roll["end"]) < 1e-3
    assert layer.product is nn.functional.linear  # the cell it was made from goes on in float32


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
def test_gradient_and_messages_are_float32_and_near_those_in_float32(cell, layers):
    net, data = small(cell, layers=layers), batch(3, 64, lengths=[64, 50, 7])
    exact = gradient(hs.rules.make("hbll", block_size=12, **WHOLE), net, data)
    engine = Engine(Options(12, precision="bf16", discount=1.0))
    net.zero_grad()
    train(net, data, engine, 12, 1.0, keep=True)
    ours = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert 1e-4 < error(ours, exact) < 0.03
    assert nn.functional.cosine_similarity(ours, exact, 0) > 0.999
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters())
    for record in engine.records:
        states, feedback = record.states, record.feedback
        for one in (states.start, states.gap, states.carry, states.roll.end, feedback.messages, feedback.start):
            assert one.dtype == torch.float32


@pytest.mark.parametrize("options", [dict(group=2), dict(memory="60kB"), dict(execution="sequential")], ids=str)
@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "user"])
def test_every_execution_has_it(cell, options):
    net, data = small(cell), batch(2, 60)
    exact = gradient(hs.rules.make("hbll", block_size=12, **WHOLE), net, data)
    ours = gradient(hs.rules.make("hbll", block_size=12, precision="bf16", **options, **WHOLE), net, data)
    assert 1e-4 < error(ours, exact) < 0.03


def test_a_long_memory_is_not_rounded_away():
    """A gate of 0.999, which is 1 in bfloat16."""
    for cell, gate in ("gru", 1), ("lstm", 1), ("mingru", 0):
        net = small(cell, hidden=8)
        with torch.no_grad():
            for p in net.rnn.parameters():
                p.zero_()
            net.rnn.bias_ih_l0[gate * 8 : (gate + 1) * 8] = 6.9068 * (-1 if cell == "mingru" else 1)
        layer = MixedCell(net.cells[0])
        roll = layer.roll(torch.zeros(1000, 2, 8), torch.ones(2, layer.state_size), keep=False)
        assert roll.end[:, :8] == pytest.approx(0.999**1000, rel=1e-2)
        assert roll.carry == pytest.approx(0.999**1000, rel=1e-2)


class Write(nn.Module):
    """State = W x: every step adds the same to the gradient of W."""

    def __init__(self):
        super().__init__()
        self.hidden_size = 2
        self.write = nn.Linear(2, 2)

    def forward(self, x, h):
        return self.write(x) + 0 * h


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "own"])
def test_weight_gradients_are_summed_in_float32(cell):
    """A sum in bfloat16 stops growing at 256 equal parts; an autocast around everything must not bring one."""
    steps = 512
    inner = adopt(Write(), 2)[0] if cell == "own" else small(cell, hidden=2).cells[0]
    x, state = torch.ones(1, 3, 2).expand(steps, 3, 2), torch.zeros(3, inner.state_size)
    found = []
    for layer in (MixedCell(inner), inner):
        with torch.autocast("cpu", torch.bfloat16, enabled=layer is not inner):
            roll = AutogradRoll(layer, x, state, keep=True)
        roll.backward_state(torch.full((steps, 3, 2), 1e-3), None)
        found.append(torch.cat([p.flatten() for p in roll.gradients()[1]]))
    assert error(*found) < 0.02


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "user with carry"])
def test_enough_sweeps_are_the_rollout_in_bfloat16(cell):
    """Rounding repeats, so the fixed point is exact, however rough the way to it."""
    layer = small(cell).cells[0]
    x, state = torch.randn(2, 60, layer.input_size), torch.randn(2, layer.state_size).tanh()
    record = Record()
    plan = Plan(10, Effort(5, 5, 0.0, fixed=True), Effort(0, 0, 0.0, fixed=True), precision="bf16")
    out, _ = run_layer(layer, x, state, None, plan, record)
    assert record.residuals[-1] < 1e-12 < record.residuals[1]
    chain, _ = MixedCell(layer).sequence(x, state)
    assert error(out.detach(), chain.detach()) < 2e-3  # PyTorch rounds the result of a product too, a compiled roll not


@pytest.mark.parametrize("cell", ALL)
def test_sweeps_and_corrections_end_by_tolerance(cell):
    net, data = small(cell, hidden=32), batch(2, 128)
    sweeping = dict(block_size=16, execution="parallel", **WHOLE)
    rules = [hs.rules.make("hbll", precision=p, **sweeping) for p in ("float32", "bf16")]
    exact, ours = (rule.step(net, data).metrics for rule in rules)
    assert ours["sweeps"] <= exact["sweeps"] + 1 < 8 and ours["corrections"] <= exact["corrections"] + 1
    assert ours["inconsistency"] <= ours["tolerance"] == 3e-4 and ours["feedback_residual"] <= 1e-3
    # even the finest tolerance that may be asked for is far above what rounding leaves here
    fine = hs.rules.make("hbll", precision="bf16", tolerance=FINEST_BF16, **sweeping)
    found = fine.step(net, data).metrics
    assert found["inconsistency"] <= FINEST_BF16 and found["sweeps"] < 8


def test_the_controller_does_not_tighten_below_what_rounding_leaves():
    controller = Controller(3e-4, 1e-3, 8, FINEST_BF16)
    for _ in range(20):
        controller.compare(1.0, 2.0)
    assert controller.tolerance == FINEST_BF16
    controller.load_state_dict(Controller(1e-6, 1e-3, 8).state_dict())  # a checkpoint of a float32 run
    assert controller.tolerance == FINEST_BF16


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "own"])
def test_a_short_fit_learns(cell):
    own = dict(cell=nn.ModuleList([OwnCell(8, 8)]), embedding=8)
    net = hs.models.CharLM(5, hidden=8, timescale=20.0, **(own if cell == "own" else dict(cell=cell)))
    options = dict(steps=40, batch_size=3, window=30, lr=3e-2, progress=False, measure_cosine=20)
    run = hs.fit(net, torch.arange(400) % 5, rule="hbll", precision="bf16", discount=1.0, **options)
    losses = run.history["loss"]
    assert losses[-1] < 0.8 * losses[0] and run.config["options"]["precision"] == "bf16"
    assert min(run.history["gradient_cosine"]) > 0.99
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("precision", ["fp16", "bfloat16", 16, None, torch.bfloat16])
def test_a_precision_there_is_not_is_named(precision):
    with pytest.raises(hs.InputError, match="precision: got .*; expected one of .*bf16"):
        hs.fit(hs.models.CharLM(5), torch.arange(99) % 5, rule="hbll", precision=precision)


def test_what_bfloat16_cannot_do_is_refused_before_any_work():
    net = model("gru")
    rule = hs.rules.make("hbll", precision="bf16")
    for work in (lambda: rule.setup(net, torch.Generator()), lambda: rule.step(net, batch(2, 20))):
        with pytest.raises(hs.InputError, match="precision: got .*float64.*; expected float32"):
            work()
    for name in ("tolerance", "feedback_tolerance"):
        with pytest.raises(hs.InputError, match=f"{name}: got 1e-05 with precision"):
            hs.rules.make("hbll", precision="bf16", **{name: 1e-5})
        hs.rules.make("hbll", precision="float32", **{name: 1e-5})
    with pytest.raises(hs.InputError, match="precision: got an option"):
        hs.fit(hs.models.CharLM(5), torch.arange(99) % 5, rule="bptt", precision="bf16")


@pytest.mark.skipif(not rounds(), reason="no AVX512-BF16")
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows,d", [(1, 70), (3, 40), (16, 64)])
def test_compiled_rolls_in_bfloat16_differ_in_what_products_read_only(kind, threads, rows, d, monkeypatch):
    """One thread, threads that share rows and threads that share units: within rounding of autograd's own."""
    monkeypatch.setattr(machine, "SMALL", 1)
    monkeypatch.setattr(machine, "WIDE", 0)
    monkeypatch.setattr(machine, "WAITS", 10**9)  # however busy the machine is
    monkeypatch.setattr(machine._busy, "until", 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = adopt(kind(5, d, batch_first=True), 5)[0]
        mixed = MixedCell(layer)
        x, state = torch.randn(6, rows, 5), torch.randn(rows, layer.state_size).tanh()
        dout, dend = torch.randn(6, rows, d), torch.randn(rows, layer.state_size)
        roll = mixed.whole(x, state, keep=True, every=4)
        assert isinstance(roll, CellRoll)
        generic = everything(AutogradRoll(mixed, x, state, keep=True), dout, dend)
        found = everything(roll, dout, dend)
        marks = AutogradRoll(mixed, x[:4], state, keep=False).end
        assert error(roll.marks[0], marks) < 4e-3
        assert error(mixed.whole(x, state, keep=False, every=4).marks[0], marks) < 4e-3
        for name in generic.keys() - {"carry"}:  # whole sequences need none
            assert error(found[name], generic[name]) < 6e-3, name
        one = roll.backward(dout, dend)[2]
        roll.backward_state(dout, dend)
        for p, q in zip(one, roll.gradients()[1], strict=True):
            assert error(p, q) < 4e-3
    finally:
        torch.set_num_threads(before)


def test_a_cpu_that_does_not_multiply_bfloat16_has_no_compiled_roll_for_it(monkeypatch):
    monkeypatch.setattr(mixed_cells, "rounds", lambda: False)
    cell = MixedCell(small("gru").cells[0])
    x, state = torch.randn(3, 2, cell.input_size), torch.zeros(2, 24)
    assert cell.recipe is None and cell.whole(x, state, keep=True, every=3) is None
    assert not isinstance(cell.roll(x, state, keep=True), CellRoll)
