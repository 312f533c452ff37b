"""Invariants, for every cell: what no change of the engine may break."""

import copy

import pytest
import torch
from cases import ALL, batch, gradient, model
from hypothesis import given
from hypothesis import strategies as st

from hbll_seq.engine import Engine, Options
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth, to_blocks
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.layer import run_layer, solve_layer_states
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.losses import objective
from hbll_seq.rules.base import make
from hbll_seq.rules.execute import train

shapes = dict(b=st.integers(1, 3), t=st.integers(1, 23), k=st.integers(1, 25), seed=st.integers(0, 99))
exactly = lambda s: Effort(s, s, 0.0, fixed=True)  # noqa: E731  (a name for readability only)


# 1. Locality -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ALL)
@given(**shapes)
def test_a_block_objective_touches_its_own_block_only(cell, b, t, k, seed):
    net = model(cell, seed=seed)
    layer = net.cells[0]
    xb = to_blocks(torch.randn(b, t, layer.input_size, dtype=torch.float64), k)  # (K, n, B, D)
    n = xb.shape[1]
    start = torch.randn(n, b, layer.state_size, dtype=torch.float64).tanh()
    roll = BlockRoll(layer, xb, start, keep=True, group=None, depth=Depth())
    mine = seed % n
    dout, dend = torch.zeros_like(roll.outputs), torch.zeros_like(roll.end)
    dout[:, mine], dend[mine] = torch.randn_like(dout[:, mine]), torch.randn_like(dend[mine])
    dstart, dx, params = roll.backward(dout, dend, gradients=True)
    others = [i for i in range(n) if i != mine]
    assert not dstart[others].any() and not dx[:, others].any()
    assert dx[:, mine].any()
    # and the parameter gradient is that of the block rolled alone, with a copy of the weights
    alone = BlockRoll(layer, xb[:, mine : mine + 1], start[mine : mine + 1], keep=True, group=None, depth=Depth())
    _, _, own = alone.backward(dout[:, mine : mine + 1], dend[mine : mine + 1], gradients=True)
    for p, q in zip(params, own, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", ALL)
def test_the_gradient_is_the_sum_of_objectives_of_isolated_blocks(cell):
    """Each block differentiated in a graph of its own, on its own copy of the weights, node by node."""
    net, data, k, pull = model(cell), batch(2, 22), 4, 0.7
    engine = Engine(Options(k, sweeps=2, feedback=1, pull=pull, carry="own", discount=1.0))
    train(net, data, engine, k, 1.0, keep=True)
    whole = torch.cat([p.grad.flatten() for p in net.parameters()])
    states, feedback = engine.records[0].states, engine.records[0].feedback
    total = torch.zeros_like(whole)
    n = states.start.shape[0]
    for i in range(n):
        mine = copy.deepcopy(net)
        cell_i, x = mine.cells[0], mine.embed(data.x)[:, i * k : (i + 1) * k]
        out, end = cell_i.sequence(x, states.start[i].detach())
        logits = mine.readout(out)
        logp = torch.log_softmax(logits, -1).gather(-1, data.y[:, i * k : (i + 1) * k, None])
        local = -(logp.sum() / data.mask.sum())
        local = local + (end * feedback.messages[i + 1]).sum() * (i < n - 1)
        if i < n - 1:
            local = local + pull / (2 * 2 * (n - 1)) * (end - states.start[i + 1]).square().sum()
        grads = torch.autograd.grad(local, list(mine.parameters()), allow_unused=True)
        total += torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                            for p, g in zip(mine.parameters(), grads, strict=True)])  # fmt: skip
    torch.testing.assert_close(whole, total, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_solutions_are_kept_for_the_step_that_asks_and_no_other(cell):
    net, data = model(cell).float(), batch(2, 22)  # float32, one layer: the loss is taken where the blocks are
    engine = Engine(Options(4, execution="parallel", discount=1.0))
    for keep in (True, False):
        train(net, data, engine, 4, 1.0, keep=keep)
        (record,) = engine.records
        assert (record.states is not None) == (record.feedback is not None) == keep


# 2. Causality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ALL)
@given(**shapes, sweeps=st.integers(0, 4))
def test_a_later_input_changes_nothing_earlier(cell, b, t, k, seed, sweeps):
    net = model(cell, seed=seed)
    layer = net.cells[0]
    if cell == "user":
        sweeps = 0  # its estimated carry is a mean over all rows, later ones included, and only steers sweeps
    x = torch.randn(b, t, layer.input_size, dtype=torch.float64)
    at = seed % t
    changed = x.clone()
    changed[:, at] += 1.0
    outputs = []
    for one in (x, changed):
        plan = Plan(k, exactly(sweeps), exactly(0))
        outputs.append(run_layer(layer, one, layer.initial(b, one), None, plan, Record())[0])
    assert torch.equal(outputs[0][:, :at], outputs[1][:, :at])
    assert not torch.equal(outputs[0][:, at], outputs[1][:, at])


# 3. Enough sweeps = the rollout, enough corrections = the BPTT gradient ------------------------------


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
@given(**shapes)
def test_enough_sweeps_and_corrections_are_bptt(cell, layers, b, t, k, seed):
    net = model(cell, layers=layers, seed=seed)
    g = torch.Generator().manual_seed(seed)
    data = batch(b, t, seed=seed, lengths=torch.randint(1, t + 1, (b,), generator=g).tolist())
    exact = gradient(make("bptt"), net, data)
    ours = gradient(make("hbll", block_size=k, sweeps=t, feedback=t, check_every=0, discount=1.0), net, data)
    assert (ours - exact).norm() <= 1e-8 * exact.norm().clamp(min=1e-12)


@pytest.mark.parametrize("cell", ALL)
@given(**shapes)
def test_enough_sweeps_are_the_sequential_rollout(cell, b, t, k, seed):
    net = model(cell, seed=seed)
    layer = net.cells[0]
    x = torch.randn(b, t, layer.input_size, dtype=torch.float64)
    state = torch.randn(b, layer.state_size, dtype=torch.float64).tanh()
    plan = Plan(k, exactly(t), exactly(0))
    out, _ = run_layer(layer, x, state, None, plan, Record())
    torch.testing.assert_close(out, layer.sequence(x, state)[0], rtol=1e-9, atol=1e-10)


# 4. One block = BPTT; exact boundaries without feedback = truncated BPTT ------------------------------


@pytest.mark.parametrize("cell", ALL)
@pytest.mark.parametrize("task", ["step", "sequence"])
def test_one_block_is_bptt(cell, task):
    net, data = model(cell, task=task), batch(3, 19, lengths=[19, 7, 1], task=task)
    ours = gradient(make("hbll", block_size=19, check_every=0, discount=1.0), net, data)
    torch.testing.assert_close(ours, gradient(make("bptt"), net, data), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", ALL)
def test_exact_boundaries_without_feedback_are_truncated_bptt(cell):
    net, data, k = model(cell), batch(2, 22), 5
    layer = net.cells[0]
    truncated = gradient(make("tbptt", block_size=k), net, data)
    net.zero_grad()
    x = net.embed(data.x)
    states = solve_layer_states(layer, x, layer.initial(2, x), None, Plan(k, exactly(99), exactly(0)), Record())
    n, b = states.start.shape[:2]
    h = states.roll.outputs.permute(2, 1, 0, 3).reshape(b, n * k, -1)[:, :22].detach().requires_grad_()
    loss, _ = objective("cross_entropy", net.readout(h), data)
    loss.backward()
    dout = to_blocks(h.grad, k)
    _, dx, params = states.roll.backward(dout, torch.zeros_like(states.roll.end), gradients=True)
    x.backward(dx.permute(2, 1, 0, 3).reshape(b, n * k, -1)[:, :22])
    for p, g in zip(layer.parameters(), params, strict=True):
        p.grad = g
    ours = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(ours, truncated, rtol=1e-8, atol=1e-11)


# 5. All blocks in one call = block by block; in groups = at once ------------------------------------


@pytest.mark.parametrize("cell", ALL)
@given(**shapes, group=st.integers(1, 6))
def test_all_blocks_at_once_equal_block_by_block_and_groups(cell, b, t, k, seed, group):
    if cell == "user":
        return  # its estimated carry is a mean over the rows of a call; outputs are tested in the next test
    net = model(cell, seed=seed)
    layer = net.cells[0]
    xb = to_blocks(torch.randn(b, t, layer.input_size, dtype=torch.float64), k)
    start = torch.randn(xb.shape[1], b, layer.state_size, dtype=torch.float64).tanh()
    once = BlockRoll(layer, xb, start, keep=True, group=None, depth=Depth())
    single = BlockRoll(layer, xb, start, keep=True, group=1, depth=Depth())
    some = BlockRoll(layer, xb, start, keep=True, group=group, depth=Depth())
    dout, dend = torch.randn_like(once.outputs), torch.randn_like(once.end)
    for other in (single, some):
        for name in ("outputs", "end", "carry", "link"):
            p, q = getattr(once, name), getattr(other, name)
            assert (p is None) == (q is None)
            if p is not None:
                torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        p, q = once.backward(dout, dend, gradients=True), other.backward(dout, dend, gradients=True)
        torch.testing.assert_close(p[0], q[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(p[1], q[1], rtol=1e-9, atol=1e-12)
        for one, two in zip(p[2], q[2], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", ALL)
def test_groups_leave_a_whole_training_gradient_unchanged(cell):
    net, data = model(cell, layers=2), batch(2, 30)
    options = dict(block_size=4, sweeps=9, feedback=9, check_every=0)
    once = gradient(make("hbll", **options), net, data)
    grouped = gradient(make("hbll", group=3, **options), net, data)
    torch.testing.assert_close(once, grouped, rtol=1e-8, atol=1e-11)


# 7. Counted depth --------------------------------------------------------------------------------


@pytest.mark.parametrize("sweeps,feedback", [(0, 0), (1, 0), (2, 1), (3, 2)])
def test_counted_depth(sweeps, feedback):
    t, k = 64, 8
    rule = make("hbll", block_size=k, sweeps=sweeps, feedback=feedback, check_every=0)
    depth = rule.step(model("gru"), batch(2, t)).metrics["depth"]
    scans = (sweeps + feedback + 1) * 3  # ceil(log2 8) levels each: sweeps forward, feedback + 1 backward
    assert depth == (sweeps + feedback + 3) * k + scans
    assert make("bptt").step(model("gru"), batch(2, t)).metrics["depth"] == 2 * t


# 8. Padding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["step", "sequence"])
@pytest.mark.parametrize("cell", [c for c in ALL if c != "user"])
@pytest.mark.parametrize("rule", ["hbll", "bptt", "tbptt"])
@given(t=st.integers(2, 20), extra=st.integers(1, 13), seed=st.integers(0, 99))
def test_padding_changes_nothing(rule, cell, task, t, extra, seed):
    options = dict(block_size=4) | (dict(sweeps=2, feedback=1, pull=0.0, check_every=0) if rule == "hbll" else {})
    options = {} if rule == "bptt" else options
    net = model(cell, task=task, seed=seed)
    short = batch(2, t, seed=seed, lengths=[t, max(t // 2, 1)], task=task)
    pad = lambda v: torch.nn.functional.pad(v, (0, extra))  # noqa: E731
    long = short._replace(x=pad(short.x), y=short.y if task == "sequence" else pad(short.y),
                          mask=None if short.mask is None else pad(short.mask))  # fmt: skip
    p, q = gradient(make(rule, **options), net, short), gradient(make(rule, **options), net, long)
    torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", [c for c in ALL if c != "user"])
def test_a_batch_of_different_lengths_equals_each_alone(cell):
    net, lengths = model(cell, task="sequence"), [21, 9, 1]
    data = batch(3, 21, lengths=lengths, task="sequence")
    options = dict(block_size=4, sweeps=2, feedback=1, pull=0.0, check_every=0)
    together = gradient(make("hbll", **options), net, data)
    alone = torch.zeros_like(together)
    for i, length in enumerate(lengths):
        one = data._replace(x=data.x[i : i + 1, :length], lengths=data.lengths[i : i + 1], y=data.y[i : i + 1])
        alone += gradient(make("hbll", **options), net, one) / 3
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("execution", ["sequential", "parallel"])
def test_a_layer_is_differentiated_again_if_the_graph_is_kept(execution):
    rule = make("hbll", block_size=4, execution=execution)
    net, data = model("gru", layers=2), batch(2, 13)
    rule.engine.begin()

    def execute(layer, cell, x, state, lengths, *, end):
        return rule.engine.layer(layer, cell, x, state, lengths, 4, end=end)

    out = net(data.x, data.lengths, execute=execute).sum()
    out.backward(retain_graph=True)
    once = [p.grad.clone() for p in net.parameters()]
    out.backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], [2 * g for g in once])
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()
