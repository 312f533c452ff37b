"""The hbll rule's options, its controller, and what it reports."""

import pytest
import torch
from cases import ALL, batch, gradient, model
from torch import nn

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.engine import Shape
from hbll_seq.engine.controller import Controller
from hbll_seq.engine.memory import memory_bytes
from hbll_seq.engine.plan import Record
from hbll_seq.rules.execute import forward_backward, per_block


def cosine(a, b):
    return float(nn.functional.cosine_similarity(a, b, 0))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
def test_the_gradient_at_the_defaults_is_near_that_of_bptt(cell, layers):
    net, data = model(cell, hidden=12, layers=layers), batch(2, 128)
    exact = gradient(hs.rules.make("bptt"), net, data)
    assert cosine(gradient(hs.rules.make("hbll", discount=1.0), net, data), exact) > 0.99


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "mingru"])
def test_more_effort_comes_nearer(cell):
    net, data = model(cell, hidden=12), batch(2, 64)
    exact = gradient(hs.rules.make("bptt"), net, data)
    errors = []
    for s, c in [(0, 0), (1, 0), (3, 1), (7, 7)]:
        ours = gradient(
            hs.rules.make("hbll", block_size=8, sweeps=s, feedback=c, check_every=0, discount=1.0), net, data
        )
        errors.append(float((ours - exact).norm() / exact.norm()))
    assert all(a > b or (a < 1e-12 and b < 1e-12) for a, b in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 1e-12


def test_a_carry_beats_jacobi_where_memory_is_long():
    net = hs.models.SequenceModel(4, 4, hidden=16, timescale=500.0, seed=1).double()
    data = batch(2, 128, symbols=4)
    left = {}
    for carry in ("own", "none"):
        rule = hs.rules.make("hbll", block_size=16, sweeps=2, feedback=0, carry=carry, check_every=0)
        left[carry] = rule.step(net, data).metrics["inconsistency"]
    assert left["own"] < 0.05 * left["none"]


def test_one_sweep_is_exact_for_a_cell_linear_in_its_state():
    net, data = model("mingru"), batch(2, 40)
    metrics = hs.rules.make("hbll", block_size=5, check_every=0).step(net, data).metrics
    assert metrics["sweeps"] == 1 and metrics["inconsistency"] < 1e-20 and metrics["feedback_residual"] < 1e-20


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman"])
@pytest.mark.parametrize("discount", [0.0, 0.4, 1.0])
def test_the_discount_scales_credit_at_every_boundary(cell, discount):
    net, data = model(cell), batch(2, 40)

    def chain(layer, one, x, state, lengths, *, end):  # plain autograd, each boundary's gradient scaled
        outputs = []
        for piece in x.split(8, 1):
            out, state = one.sequence(piece, discount * state + (1 - discount) * state.detach())
            outputs.append(out)
        return torch.cat(outputs, 1), state

    options = dict(block_size=8, sweeps=9, feedback=9, check_every=0, carry="own")
    ours = gradient(hs.rules.make("hbll", discount=discount, **options), net, data)
    net.zero_grad()
    forward_backward(net, data, chain)
    exact = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(ours, exact)
    if discount == 0:
        torch.testing.assert_close(ours, gradient(hs.rules.make("tbptt", block_size=8), net, data))


@pytest.mark.parametrize("carry", ["learned", "blended"])
def test_a_carry_that_is_gone_says_what_replaced_it(carry):
    with pytest.raises(hs.InputError, match=f"carry: got '{carry}', which is gone: \"calibrated\""):
        hs.rules.make("hbll", carry=carry)


def test_an_option_that_is_gone_says_what_replaced_it():
    said = "feedback_weight: got 0.5, an option that is gone; expected discount="
    with pytest.raises(hs.InputError, match=said):
        hs.rules.make("hbll", feedback_weight=0.5)
    net, data = model("gru"), batch(2, 9)
    for call in (hs.fit, hs.gradient):
        with pytest.raises(hs.InputError, match=said):
            call(net, data.x, data.y, rule="hbll", feedback_weight=0.5)
    with pytest.raises(hs.InputError, match="feedback_weight: got an option that neither fit nor the rule has"):
        hs.fit(net, data.x, data.y, rule="tbptt", feedback_weight=0.5)  # it never had that one


def test_the_controller_tightens_and_relaxes_with_the_deployed_gap():
    controller = Controller(1e-2, 3e-2, 8)
    controller.compare(2.0, 2.1)
    assert controller.tolerance == 5e-3
    controller.compare(2.0, 2.0)
    assert controller.tolerance == pytest.approx(6.25e-3)
    for _ in range(99):
        controller.compare(1.0, 2.0)
    assert controller.tolerance == pytest.approx(1e-4)  # a hundredth of the initial one, no less
    for _ in range(99):
        controller.compare(2.0, 2.0)
    assert controller.tolerance == 1e-2


def test_the_controller_expects_the_sweeps_that_were_needed():
    controller = Controller(1e-2, 3e-2, 8)
    for _ in range(10):
        controller.observe(
            [Record(residuals=[3.0, 0.5, 0.02, 0.001], sweeps=3, feedback_residuals=[1.0, 0.2, 0.01], corrections=1)]
        )
    assert controller.sweeps(0).least == 3 and controller.feedback(0, 4).least == 1
    for _ in range(10):
        controller.observe([Record(residuals=[3.0, 0.001], sweeps=1, feedback_residuals=[1.0, 0.01])])
    assert controller.sweeps(0).least == 1 and controller.feedback(0, 4).least == 0


def test_the_pull_acts_only_while_a_fixed_number_of_sweeps_leaves_boundaries_apart():
    controller = Controller(1e-2, 3e-2, 2)
    apart = [Record(residuals=[1.0, 0.5], sweeps=1, boundaries="forced")]
    near = [Record(residuals=[1.0, 0.001], sweeps=1, boundaries="forced")]
    controller.observe(near)
    assert controller.pull == 0
    controller.observe(apart)
    first = controller.pull
    controller.observe(apart)
    assert 0 < first < controller.pull
    for _ in range(200):
        controller.observe(near)
    assert controller.pull == 0


def test_calibration_drops_a_carry_that_predicts_nothing():
    controller = Controller(1e-2, 3e-2, 8)
    one = torch.ones(3)
    # unit 0: p predicts e; unit 1: e is half of p; unit 2: e is the opposite of p
    seen = torch.stack([one, torch.tensor([1.0, 0.5, -1.0])])
    controller.observe([Record(residuals=[1.0, 0.0], feedback_residuals=[0.0], sweeps=1, statistics=seen)])
    assert controller.mix(0).tolist() == pytest.approx([1.0, 0.524, 0.0], abs=1e-3)


def test_a_sweep_that_makes_a_block_worse_falls_back_to_jacobi():
    """An Elman cell with strong weights: its diagonal carry is wrong, Jacobi still reaches the rollout."""
    net = model("elman", hidden=8)
    with torch.no_grad():
        net.rnn.weight_hh_l0.mul_(3.0)
    data = batch(2, 60)
    rule = hs.rules.make("hbll", block_size=6, sweeps=4, feedback=0, carry="own", check_every=0, discount=1.0)
    assert rule.step(net, data).metrics["fallbacks"] > 0
    exact = gradient(hs.rules.make("bptt"), net, data)
    full = gradient(hs.rules.make("hbll", block_size=6, sweeps=9, feedback=9, check_every=0, discount=1.0), net, data)
    torch.testing.assert_close(full, exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "given,size", [(1000, 1000), ("1kB", 1000), ("2 MiB", 2 * 2**20), ("0.5GB", 5 * 10**8), ("77", 77)]
)
def test_memory_sizes(given, size):
    assert memory_bytes(given) == size


@pytest.mark.parametrize("given", ["much", "-1MB", "0", 0, "1 TB per block"])
def test_memory_that_is_no_size_is_named(given):
    with pytest.raises(hs.InputError, match="memory: got"):
        hs.rules.make("hbll", memory=given)


def test_a_memory_budget_decides_the_group_and_not_the_result():
    net, data = model("gru"), batch(2, 60)
    options = dict(block_size=4, sweeps=14, feedback=14, check_every=0)
    small = hs.rules.make("hbll", memory="20kB", **options)
    plan = small.engine.plan(0, net.cells[0], Shape(2, 60, 4), torch.zeros(1, dtype=torch.float64))
    assert plan.group == 20_000 // ((24 * 6 + 2 * 6) * 8 * 4 * 2)
    torch.testing.assert_close(gradient(small, net, data), gradient(hs.rules.make("hbll", **options), net, data))


def test_a_rule_of_one_s_own_is_a_short_class():
    @hs.rules.register
    class Sign(hs.Rule):
        name = "sign-of-bptt"

        def step(self, net, data, progress):
            result = hs.rules.make("bptt").step(net, data)
            for p in net.parameters():
                p.grad.sign_()
            return result

    try:
        run = hs.fit(
            hs.models.CharLM(5, hidden=6),
            torch.arange(300) % 5,
            rule="sign-of-bptt",
            steps=3,
            optimizer="sgd",
            progress=False,
        )
        assert run.config["rule"] == "sign-of-bptt"
    finally:
        del hs.rules.base._RULES["recurrent", "sign-of-bptt"]


def test_blocks_without_targets_are_not_taken_for_broken_ones():
    per_step, mask = torch.ones(1, 12), torch.ones(1, 12, dtype=torch.bool)
    mask[:, :4] = False
    fine = per_block(per_step * mask, mask, 4)
    assert fine[0].isnan() and fine[1:].tolist() == [1, 1]
    per_step[0, 9] = torch.inf
    assert per_block(per_step * mask, mask, 4).tolist() == [0, 1, torch.inf]


def test_dsf_uses_a_diagonal_that_never_changes():
    net, rule = model("gru"), hs.rules.make("dsf")
    rule.step(net, batch(2, 20))
    first = rule.diagonal[0].clone()
    with torch.no_grad():
        net.rnn.bias_ih_l0.add_(1.0)
    rule.step(net, batch(2, 20, seed=1))
    assert torch.equal(rule.diagonal[0], first) and first.shape == (6,)


def test_dsf_with_the_true_diagonal_is_bptt_for_a_cell_that_is_diagonal():
    """minGRU with constant gates: its Jacobian is one fixed diagonal, so fixed feedback is exact."""
    net = model("mingru")
    with torch.no_grad():
        net.rnn.weight_ih_l0[:6] = 0
    data = batch(2, 20)
    ours, exact = gradient(hs.rules.make("dsf"), net, data), gradient(hs.rules.make("bptt"), net, data)
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-11)


def test_the_automatic_discount_keeps_credit_whole_where_blocks_have_no_targets():
    net, data = model("gru"), batch(2, 48)
    late = data._replace(mask=data.mask & (torch.arange(48)[None] >= 40))  # targets in the last block of 8 only
    options = dict(block_size=8, sweeps=9, feedback=9, check_every=0)
    for which in (late, batch(2, 48, task="sequence")):
        single = model("gru", task="step" if which is late else "sequence")
        exact = gradient(hs.rules.make("bptt"), single, which)
        torch.testing.assert_close(gradient(hs.rules.make("hbll", **options), single, which), exact)
    for progress in (0.0, 0.25, 1.0):
        rule = hs.rules.make("hbll", **options)
        same = gradient(hs.rules.make("hbll", discount=progress, **options), net, data)
        torch.testing.assert_close(gradient(rule, net, data, progress), same)
    early = data._replace(mask=data.mask & (torch.arange(48)[None] % 24 >= 16))  # in blocks 2 and 5
    mixed = gradient(hs.rules.make("hbll", **options), net, early)
    assert cosine(mixed, gradient(hs.rules.make("bptt"), net, early)) < 0.9999


def test_the_callers_input_never_becomes_a_work_buffer():
    """A cell without an input projection has the input itself where others have a buffer."""
    from hbll_seq.kernels import buffers

    class Plain(nn.Module):
        input_size, hidden_size = 3, 4

        def __init__(self):
            super().__init__()
            self.map = nn.Linear(7, 4)

        def forward(self, x, h):
            return torch.tanh(self.map(torch.cat([x, h], -1)))

    x = torch.randn(1, 64, 3)
    net = hs.models.SequenceModel(3, 2, cell=Plain(), task="sequence", input_kind="features")
    learner = hs.rules.make("hbll", block_size=64)
    learner.setup(net, torch.Generator().manual_seed(0))
    learner.step(net, Batch(x, torch.tensor([64]), torch.tensor([1]), None))
    mine = x.untyped_storage().data_ptr()
    assert all(one.untyped_storage().data_ptr() != mine for one in buffers._waiting)


def test_a_carry_that_overflows_spoils_nothing():
    """A unit whose diagonal doubles at every step, at rest and not read: its carry over a block is infinite."""
    model = hs.models.SequenceModel(1, 2, hidden=2, cell="gru", input_kind="features", task="sequence")
    with torch.no_grad():
        w_ih, w_hh, *biases = model.cells[0].parameters()  # gates r, z, n of units 0 and 1
        for p in (w_ih, w_hh, *biases):
            p[::2] = 0  # unit 0 hears nothing, r = z = 1/2,
            p[1::2].mul_(0.3)
        w_hh[4, 0] = 6.0  # so dh'/dh = 1/2 + 1/2 * 1/2 * 6 = 2 at h = 0
        w_hh[1::2, 0] = 0
        model.readout.weight[:, 0] = 0
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 1024, 1, generator=g), torch.randint(2, (4,), generator=g)
    level = model.cells[0].roll(x[:, :256].transpose(0, 1).contiguous(), torch.zeros(4, 2), keep=False)
    assert not level.carry[:, 0].isfinite().any()
    found, exact = (
        hs.gradient(model, x, y, rule=rule, **options)
        for rule, options in (("hbll", dict(block_size=256, tolerance=1e-8, feedback_tolerance=1e-8)), ("bptt", {}))
    )
    for name, one in exact.items():
        torch.testing.assert_close(found[name], one, rtol=1e-3, atol=1e-6)
    run = hs.fit(model, x, y, rule="hbll", block_size=256, steps=5, batch_size=4, lr=1e-5, progress=False)
    assert all(0 <= w < 2 for w in run.history["carry_weight"])
