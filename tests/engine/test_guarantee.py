"""No update comes from boundaries or messages outside the tolerance, unless the user fixed the effort: then it is said."""

import copy
import math
import warnings

import pytest
import torch
from cases import batch, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hbll_seq as hs
from hbll_seq.engine import Schedule
from hbll_seq.engine.controller import PAUSE, SWITCHES, Controller
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.engine import shape_name
from hbll_seq.engine.plan import Record
from hbll_seq.errors import EngineWarning
from hbll_seq.kernels import buffers


def violent(cell, strength, *, hidden=16, layers=1, seed=0):
    """A network whose state depends on everything before: recurrent weights `strength` times as large."""
    net = hs.models.SequenceModel(7, 7, hidden=hidden, cell=cell, layers=layers, timescale=None, seed=seed).double()
    with torch.no_grad():
        for name, p in net.rnn.named_parameters():
            if "weight_hh" in name:
                p.mul_(strength)
    return net


def cosine(a, b):
    return float(nn.functional.cosine_similarity(a, b, 0))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell,strength", [("gru", 12.0), ("elman", 6.0), ("lstm", 12.0)])
def test_states_that_do_not_agree_are_replaced_by_exact_ones(cell, strength, layers):
    net, data = violent(cell, strength, layers=layers), batch(2, 120)
    rule = hs.rules.make("hbll", execution="parallel", block_size=4, discount=1.0, check_every=0)
    ours, exact = gradient(rule, net, data), gradient(hs.rules.make("bptt", kernels="torch"), net, data)
    metrics = rule.engine.metrics()
    assert "gave up" in metrics["schedule"] and metrics["boundaries"] == "exact"
    assert metrics["sweeps"] < 8  # the rate of the first sweeps said enough
    assert cosine(ours, exact) > 0.999


@settings(max_examples=40)
@given(
    cell=st.sampled_from(["gru", "elman", "lstm"]),
    strength=st.floats(0.5, 14.0),
    block=st.integers(2, 9),
    execution=st.sampled_from(["parallel", "exact-forward"]),
    seed=st.integers(0, 99),
)
def test_never_silent(cell, strength, block, execution, seed):
    """Whatever the dynamics: near the exact gradient, or the history says that it was forced."""
    net, data = violent(cell, strength, seed=seed), batch(2, 60, seed=seed)
    options = dict(execution=execution, block_size=block, discount=1.0, check_every=0)
    exact = gradient(hs.rules.make("bptt", kernels="torch"), net, data)
    rule = hs.rules.make("hbll", **options)
    ours = gradient(rule, net, data)
    metrics = rule.engine.metrics()
    assert "forced" not in (metrics["boundaries"], metrics["messages"])
    assert cosine(ours, exact) > 0.99
    if metrics["messages"] == metrics["boundaries"] == "exact":
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-7 * float(exact.abs().max()))


@pytest.mark.parametrize("execution", ["parallel", "exact-forward"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_small_gaps_that_add_up_are_not_within_the_tolerance(kind, execution):
    """Where credit fades over thousands of steps, each block's gap is small and their sum was a fifth of the gradient."""
    torch.manual_seed(0)
    plain = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](8, 32, batch_first=True).double()
    with torch.no_grad():  # time scales up to 1,000 steps
        keep = torch.log(torch.rand(32) * 1000 + 1)
        plain.bias_ih_l0[32:64] = keep
        if kind == "lstm":
            plain.bias_ih_l0[:32] = -keep
    x, w = torch.randn(2, 2048, 8).double(), torch.randn(2, 1, 32).double()
    within = 3e-4
    ours = hs.convert(
        copy.deepcopy(plain), execution=execution, block_size=32, tolerance=within, feedback_tolerance=within
    )
    gradients = []
    for layer in (plain, ours):
        (layer(x)[0] * w).sin().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in layer.parameters()]))
    exact, found = gradients
    assert float((found - exact).norm() / exact.norm()) < math.sqrt(within)


def test_what_the_user_fixed_is_done_and_said():
    net, data = violent("gru", 12.0), batch(2, 120)
    rule = hs.rules.make("hbll", block_size=4, sweeps=2, feedback=1, discount=1.0, check_every=0)
    metrics = rule.step(net, data).metrics
    assert metrics["schedule"] == "parallel" and metrics["sweeps"] == 2 and metrics["corrections"] == 1
    assert metrics["boundaries"] == "forced" and metrics["inconsistency"] > 3e-4
    calm = hs.models.SequenceModel(7, 7, hidden=16, cell="mingru").double()
    rule = hs.rules.make("hbll", block_size=4, sweeps=2, feedback=1, discount=1.0, check_every=0)
    assert rule.step(calm, data).metrics["boundaries"] == "within tolerance"
    rule = hs.rules.make("hbll", block_size=60, sweeps=1, feedback=0, discount=1.0, check_every=0)
    metrics = rule.step(net, data).metrics  # one sweep is exact for two blocks, and so are two passes back
    assert metrics["boundaries"] == metrics["messages"] == "exact"


def test_a_run_that_had_to_switch_starts_with_the_exact_schedule_and_warns_once():
    net, data = violent("gru", 12.0), batch(2, 120)
    rule = hs.rules.make("hbll", execution="parallel", block_size=4, discount=1.0, check_every=0)
    seen, said = [], []
    for _ in range(SWITCHES + 3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen.append(rule.step(net, data).metrics["schedule"])
        said += [one for one in caught if issubclass(one.category, EngineWarning)]
    assert all("gave up states" in one for one in seen[:SWITCHES])
    assert all("gave up states" not in one for one in seen[SWITCHES:])
    assert len(said) == 1 and "sweeps" in str(said[0].message) and 'execution="sequential"' in str(said[0].message)
    again = hs.rules.make("hbll", execution="parallel", block_size=4, discount=1.0, check_every=0)
    again.load_state_dict(rule.state_dict())
    assert "gave up states" not in again.step(net, data).metrics["schedule"]


def test_it_is_tried_again_after_a_while_and_less_and_less_often():
    controller, tries = Controller(3e-4, 1e-3, 8), []
    failed, fine = Record(gave_up=["states"]), Record()
    for one in (failed, fine):
        one.residuals, one.feedback_residuals = [0.0], [0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        for step in range(4 * PAUSE):
            trying = controller.avoid() == ""
            tries += [step] if trying else []
            controller.observe([failed if trying else fine])
    first, second = tries[:SWITCHES], tries[SWITCHES : 2 * SWITCHES]
    assert first == [0, 1, 2] and second == [k + PAUSE + SWITCHES for k in first]
    assert tries[2 * SWITCHES] == second[-1] + 1 + 2 * PAUSE


def test_rare_switches_change_nothing():
    controller = Controller(3e-4, 1e-3, 8)
    for step in range(200):
        record = Record(gave_up=["states"] if step % 20 == 0 and step else [])
        record.residuals, record.feedback_residuals = [0.0], [0.0]
        controller.observe([record])
        assert controller.avoid() == ""


@pytest.mark.parametrize(
    "residuals,hopeless",
    [
        ([1.0, 0.9], False),  # the first sweep says little
        ([1.0, 0.9, 0.8], True),
        ([1.0, 0.5, 0.2], True),  # 0.2 * 0.4^6 = 8e-4
        ([1.0, 0.5, 0.1], False),  # 0.1 * 0.2^6 = 6e-6
        ([10.0, 0.02, 0.018], False),  # one slow sweep after a fast one: 0.018 * 0.042^6
        ([1.0, 0.5, 2e-4], False),
        ([1.0, math.nan, math.nan], True),
    ],
)
def test_giving_up(residuals, hopeless):
    assert Effort(1, 8, 3e-4).hopeless(residuals, 8) is hopeless
    assert not Effort(8, 8, 3e-4, fixed=True).hopeless(residuals, 8)


@pytest.mark.parametrize("task", ["step", "sequence"])
def test_credit_is_discounted_alike_whatever_runs_at_once(task):
    """The credit block is where the discount acts; blocks that run at once are another matter."""
    net = hs.models.SequenceModel(7, 7, hidden=12, task=task, timescale=20.0)
    data = batch(3, 70, lengths=[70, 41, 12], task=task)
    found, losses = [], []
    for options in (
        dict(execution="sequential"), dict(execution="exact-forward"), dict(execution="parallel"),
        dict(execution="exact-forward", execution_block=6), dict(execution="parallel", execution_block=4),
        dict(execution="sequential", group=2), dict(execution="parallel", execution_block=3, group=3),
        dict(execution="auto"),
    ):  # fmt: skip
        for dtype in (torch.float32, torch.float64):
            rule = hs.rules.make(
                "hbll", block_size=12, discount=0.3, check_every=0, tolerance=1e-9, feedback_tolerance=1e-9, most=24,
                **options,
            )  # fmt: skip
            one = net.to(dtype)
            found.append(gradient(rule, one, data).double())
            losses.append(rule.step(one, data).block_loss)
    for one, blocks in zip(found[1:], losses[1:], strict=True):
        torch.testing.assert_close(one, found[0], rtol=1e-3, atol=2e-6)
        if task == "step":
            torch.testing.assert_close(blocks.double(), losses[0].double(), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "mingru"])
@pytest.mark.parametrize("rule", ["bptt", "tbptt"])
def test_the_kernels_of_bptt_give_what_pytorch_gives(rule, cell):
    for layers in (1, 2):
        net = hs.models.SequenceModel(7, 7, hidden=12, layers=layers, cell=cell, timescale=20.0)
        data = batch(3, 40, lengths=[40, 23, 5])
        options = dict(block_size=12) if rule == "tbptt" else {}
        by_kernels, by_torch = hs.rules.make(rule, **options), hs.rules.make(rule, kernels="torch", **options)
        ours, theirs = gradient(by_kernels, net, data), gradient(by_torch, net, data)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-6)
        assert by_kernels.step(net, data).metrics == by_torch.step(net, data).metrics
    if rule == "bptt":
        small = gradient(hs.rules.make("bptt", memory="40kB"), net, data)
        torch.testing.assert_close(small, ours, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("execution", ["sequential", "exact-forward", "parallel"])
def test_where_rounding_decides_it_is_said(execution):
    """An Elman network whose messages explode: no float32 pass can be trusted, and the run says so once."""
    net, data = violent("elman", 8.0, hidden=24).float(), batch(2, 200)
    options = dict(execution=execution, block_size=20, discount=1.0)
    rule = hs.rules.make("hbll", **options)
    with pytest.warns(EngineWarning, match="rounding decides"):
        metrics = rule.step(net, data).metrics
    assert metrics["amplification"] > 30
    assert "amplification" not in rule.step(net, data).metrics  # the next check is 50 steps on
    calm = hs.models.SequenceModel(7, 7, hidden=24, seed=0)
    found = [hs.rules.make("hbll", **options).step(one, data).metrics["amplification"] for one in (calm, calm.double())]
    assert 0 < found[0] <= 1 and found[0] == pytest.approx(found[1], rel=0.05)


def test_no_layer_hands_out_its_work_buffer():
    """With one step a layer's output is contiguous either way round: it has to be a copy all the same."""
    net = hs.models.SequenceModel(5, 5, hidden=16, layers=2, timescale=None, seed=0)
    net.embedding.requires_grad_(False)
    for name, p in net.rnn.named_parameters():
        p.requires_grad_("l1" in name)  # nothing of the first layer keeps its roll alive
    data = batch(16, 1, symbols=5)
    buffers._waiting.clear()
    for rule in ("hbll", "bptt"):
        for _ in range(3):
            ours, theirs = [], []
            for one, target in ((hs.rules.make(rule), ours), (hs.rules.make("bptt", kernels="torch"), theirs)):
                net.zero_grad()
                one.step(net, data)
                target += [p.grad.clone() for p in net.parameters() if p.grad is not None]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_blocks_that_do_not_fit_credit_blocks_are_refused_where_messages_are_discounted():
    with pytest.raises(hs.InputError, match="execution_block: got 8 beside block_size=12"):
        hs.rules.make("hbll", execution="parallel", block_size=12, execution_block=8)
    with pytest.raises(hs.InputError, match='execution_block: got given beside execution="sequential"'):
        hs.rules.make("hbll", execution="sequential", execution_block=8)
    net, data = hs.models.SequenceModel(7, 7, hidden=8), batch(4, 256)
    with pytest.raises(hs.InputError, match="execution_block: got 64 for credit blocks of 16 steps"):
        hs.rules.make("hbll", execution="parallel", execution_block=64).step(net, data, 0.5)
    whole = hs.rules.make("hbll", execution="parallel", block_size=12, execution_block=8, discount=1.0)
    exact = gradient(hs.rules.make("bptt", kernels="torch"), net, data)
    assert cosine(gradient(whole, net, data), exact) > 0.999


def test_a_pinned_schedule_fits_its_credit_block_and_is_left_where_it_does_not_converge():
    net, data = violent("gru", 12.0), batch(2, 120)
    rule = hs.rules.make("hbll", execution="measured", block_size=4, discount=1.0, check_every=0)
    rule.engine.pin(shape_name(120, 2, 4), Schedule("parallel", 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        seen = [rule.step(net, data).metrics["schedule"] for _ in range(SWITCHES + 2)]
    assert "gave up states" in seen[0] and "gave up" not in seen[-1]
    assert shape_name(80, 4, 80) != shape_name(128, 4, 100)


def test_a_rule_follows_its_model_to_another_dtype_and_width():
    rule = hs.rules.make("hbll", execution="parallel", block_size=8, check_every=0)
    for net in (hs.models.SequenceModel(7, 7, hidden=16), hs.models.SequenceModel(7, 7, hidden=8)):
        rule.setup(net, torch.Generator().manual_seed(0))
        for dtype in (torch.float32, torch.float64, torch.float32):
            ours = gradient(rule, net.to(dtype), batch(2, 64), 1.0)  # whole credit
            assert cosine(ours, gradient(hs.rules.make("bptt", kernels="torch"), net, batch(2, 64))) > 0.999


def test_a_cell_that_draws_is_not_said_to_be_exact():
    class Noisy(nn.Module):
        input_size = hidden_size = 6

        def __init__(self):
            super().__init__()
            self.map = nn.Linear(12, 6)

        def forward(self, x, h):
            return torch.tanh(nn.functional.dropout(self.map(torch.cat([x, h], 1)), 0.5))

    net = hs.models.SequenceModel(7, 7, cell=Noisy(), embedding=6)
    rule = hs.rules.make("hbll", execution="exact-forward", block_size=8, discount=1.0, check_every=0)
    assert rule.step(net, batch(2, 64)).metrics["boundaries"] == "forced"


@pytest.mark.parametrize("rule", ["hbll", "bptt", "tbptt"])
def test_symbols_and_targets_out_of_range_touch_no_memory(rule):
    net, data = hs.models.SequenceModel(7, 7, hidden=8), batch(4, 32)
    for change, name in ((dict(x=data.x + 7), "x"), (dict(y=data.y + 7), "y"), (dict(y=data.y - 107, mask=None), "y")):
        with pytest.raises(hs.InputError, match=f"{name}: got"):
            hs.rules.make(rule).step(net, data._replace(**change))


def test_a_budget_holds_for_bptt_of_any_cell():
    net, data = hs.models.SequenceModel(7, 7, hidden=8).double(), batch(2, 64)
    ours = gradient(hs.rules.make("bptt", memory="20kB"), net, data)
    torch.testing.assert_close(ours, gradient(hs.rules.make("bptt", kernels="torch"), net, data))


def test_state_from_before_the_engine_is_understood():
    """What a checkpoint of the last version holds: no attempts avoided, no schedules, five rows of products."""
    rule = hs.rules.make("hbll")
    old = {k: v for k, v in rule.state_dict().items() if k not in ("avoid", "pinned")}
    rule.load_state_dict({**old, "tolerance": 1e-4, "products.0": torch.arange(15.0).view(5, 3), "blocks": {}})
    assert rule.engine.controller.tolerance == 1e-4
    assert rule.engine.controller._products[0].tolist() == [[0, 1, 2], [9, 10, 11]]
