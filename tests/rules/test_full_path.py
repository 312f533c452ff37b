"""Messages over depth: exact against autograd, kept within their tolerance, and credit that grows over a run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.losses import objective
from hbll_seq.models import GPT, MLP
from hbll_seq.rules.depth.bank import Bank
from hbll_seq.rules.depth.credit import ARRIVES, Credit
from hbll_seq.rules.depth.messages import triangle
from hbll_seq.rules.depth.mixing import Mixing
from tests.layered_cases import KINDS, SYMBOLS, data, gradients, networks, noted

EXECUTIONS = ("sequential", "exact-forward", "parallel")
SOLVED = dict(tolerance=1e-22, feedback_tolerance=1e-22, most=60)
_POINTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
POINTS = Batch(_POINTS, torch.ones(6), torch.tensor([0, 1, 2, 0, 1, 2]), None)


def make(**options):
    return hs.rules.make("hbll", family="layered", **options)


def exactly(execution, **options):
    return make(execution=execution, **({} if execution == "sequential" else SOLVED), **options)


def close(one, two, rtol=1e-7):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * max(1e-6, float(b.abs().max())))


class Residual(nn.Module):
    """z + scale W z, and a rotation: Jacobians of any size."""

    def __init__(self, width, scale, seed):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(scale * torch.randn(width, width, generator=g) / width**0.5)

    def forward(self, z):
        return z + torch.sin(z @ self.w)


class Mixes(nn.Module):
    """A module of a user's own in which the sequences of a batch meet."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)

    def forward(self, z):
        return z + self.norm(z)


def own(layers, scale=0.5, seed=0, extra=()):
    modules = [Residual(5, scale, seed + k) for k in range(layers - 1 - len(extra))]
    modules[1:1] = extra
    torch.manual_seed(seed)
    return hs.Layered(modules, embed=nn.Linear(5, 5), head=nn.Linear(5, 3), input_shape=(5,), output_size=3).double()


def credited(net, batch, factor):
    """Gradients written out with plain autograd: own heads with 1 - g, and g on what enters from the next node."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(context, z):
            return z.view_as(z)

        @staticmethod
        def backward(context, grad):
            return factor * grad

    z, total = net.embed(batch.x), 0.0
    for n, module in enumerate(net.layers):
        z = module(Scale.apply(z) if n else z)
        last = n + 1 == len(net.layers)
        total = total + (1.0 if last else 1 - factor) * objective(net.objective, net.head(z), batch)[0]
    found = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(net.parameters(), found, strict=True)]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_credit_is_the_gradient_of_backpropagation(kind, execution):
    net = networks()[kind].double()
    batch = data(net)
    wanted, reference = gradients(hs.rules.make("bp", family="layered"), net, batch)
    found, result = gradients(exactly(execution), net, batch)
    close(found, wanted)
    assert result.loss == pytest.approx(reference.loss, rel=1e-9)
    assert result.metrics["schedule"] == execution and result.metrics["discount"] == 1.0


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", ["normed", "mlp", "gpt"])
def test_shared_credit_is_that_of_the_written_out_sum(kind, execution, factor):
    net = networks(6)[kind].double()
    batch = data(net)
    found, result = gradients(exactly(execution, discount=factor), net, batch)
    close(found, credited(net, batch, factor))
    assert len(result.block_loss) == 5 and float(result.block_loss[-1]) == pytest.approx(result.loss)


@settings(max_examples=40, deadline=None)
@given(
    layers=st.integers(2, 12), scale=st.sampled_from([0.01, 0.3, 1.0, 3.0]), seed=st.integers(0, 99),
    execution=st.sampled_from(EXECUTIONS[1:]), tolerance=st.sampled_from([1e-2, 1e-4, 1e-8]), most=st.integers(1, 6),
    mixes=st.booleans(),
)  # fmt: skip
def test_no_update_is_made_from_messages_or_states_outside_the_tolerance(
    layers, scale, seed, execution, tolerance, most, mixes
):
    """Whatever the Jacobians: within tolerance, or exact. The residual is checked against autograd's own messages."""
    net = own(layers, scale, seed, (Mixes(5),) if mixes and layers > 3 else ())
    rule = make(execution=execution, tolerance=tolerance, feedback_tolerance=tolerance, most=most)
    wanted, _ = gradients(hs.rules.make("bp", family="layered"), net, POINTS)
    found, result = gradients(rule, net, POINTS)
    figures = result.metrics
    assert {figures["boundaries"], figures["messages"]} <= {"exact", "within tolerance"}
    assert figures["inconsistency"] <= tolerance and figures["feedback_residual"] <= tolerance
    assert figures["sweeps"] <= most and figures["corrections"] <= most
    if figures["boundaries"] == figures["messages"] == "exact":
        close(found, wanted)
        assert layers == 2 or "in order" in figures["schedule"]


@pytest.mark.parametrize("together", [True, False])
def test_messages_that_miss_their_tolerance_are_found_in_order(together):
    """From whole states, so that nothing else differs from backpropagation."""
    net = own(9)
    rule = make(execution="parallel" if together else "exact-forward", tolerance=1e-22, feedback_tolerance=0.0, most=60)
    wanted, _ = gradients(hs.rules.make("bp", family="layered"), net, POINTS)
    found, result = gradients(rule, net, POINTS)
    assert result.metrics["schedule"] == "gave up messages, then in order" and result.metrics["messages"] == "exact"
    close(found, wanted)


def test_a_fixed_count_is_made_and_used_as_it_is():
    net = own(9, 1.0)
    for count in (0, 1, 3):
        rule = make(execution="parallel", sweeps=count, feedback=count)
        figures = rule.step(net, POINTS).metrics
        assert figures["sweeps"] == figures["corrections"] == count and figures["feedback_residual"] > 3e-4
        assert figures["boundaries"] == figures["messages"] == "forced" and figures["schedule"] == "parallel"
        assert figures["depth"] == (count + 2) + 2 + (count + 2)


def test_a_correction_brings_the_gradient_nearer():
    net = networks()["normed"].double()
    batch = data(net)
    wanted = torch.cat([g.flatten() for g in gradients(hs.rules.make("bp", family="layered"), net, batch)[0]])
    cosines = []
    for count in range(7):
        found, _ = gradients(make(execution="exact-forward", feedback=count), net, batch)
        cosines.append(float(torch.cosine_similarity(torch.cat([g.flatten() for g in found]), wanted, 0)))
    assert cosines == sorted(cosines) and cosines[0] < 0.95 and cosines[-1] > 0.999


def test_calls_are_counted(monkeypatch):
    net, calls = networks()["normed"], []
    monkeypatch.setattr(Bank, "__call__", noted(calls))
    figures = make(execution="parallel").step(net, data(net)).metrics
    assert len(calls) == figures["sweeps"] + 2 and figures["modules"] == "at once"
    assert figures["depth"] == len(calls) + 2 + figures["corrections"] + 2
    assert make().step(net, data(net)).metrics["depth"] == 16  # 8 forth and 8 back


def test_three_updates_finished_in_order_pause_the_attempts():
    net, rule = own(9, 3.0), make(execution="parallel", most=1)
    ran = [rule.step(net, POINTS).metrics["schedule"] for _ in range(104)]
    assert ran[:3] == ["gave up states, then in order"] * 3 and set(ran[3:103]) == {"sequential"}
    assert ran[103] == ran[0]


def test_modules_without_parameters_gradients_or_a_use_of_their_input():
    class Rotate(nn.Module):
        def forward(self, z):
            return z.roll(1, -1)

    class Detach(nn.Module):
        def forward(self, z):
            return z.detach()

    class Constant(nn.Linear):
        def forward(self, z):
            return self.bias + torch.zeros_like(z)

    for extra in (Rotate(), Detach(), Constant(5, 5)):
        net = own(6, extra=(extra,))
        net.layers[-1].w.requires_grad_(False)
        batch = POINTS
        wanted = credited(net, batch, 0.5) if all(p.requires_grad for p in net.parameters()) else None
        found = [gradients(exactly(e, discount=0.5), net, batch)[0] for e in EXECUTIONS]
        close(found[0], found[1])
        close(found[0], found[2])
        assert wanted is None and found[0][0].abs().sum() > 0


def test_credit_grows_with_progress_where_messages_arrive():
    """Residual modules pass messages on; sixteen sigmoid layers at their start pass nothing, and keep their heads."""
    for net, least in ((networks(16)["normed"], 1.0), (MLP(64, 4, hidden=12, layers=16), 0.0)):
        rule, shares = make(), []
        for seed, progress in enumerate((0.0, 0.25, 0.5, 1.0)):
            found = rule.step(net, data(net, seed=seed), progress=progress).metrics["discount"]
            shares.append(found / max(progress, 1e-9))
        assert shares[0] == 0.0 and all((one == pytest.approx(1.0)) == bool(least) for one in shares[1:])
        assert least or max(shares) < 0.4
    # the measured gain is autograd's
    z = torch.randn(7, 12, requires_grad=True)
    message = torch.randn(1, 7, 12)
    (arrived,) = torch.autograd.grad(net.layers[3](z), z, message[0])
    credit = Credit()
    credit.observe(message, [arrived])
    assert float(credit.gain) == pytest.approx(float(arrived.norm() / message.norm()))
    assert float(credit.share(2, z)) == pytest.approx(min(1.0, float(credit.gain) / ARRIVES**0.5))


def discounts(rule, net, count, first=0):
    """Of updates on new examples, in a run of a thousand."""
    seeds = range(first, first + count)
    return [rule.step(net, data(net, seed=k), progress=k / 1000).metrics["discount"] for k in seeds]


def test_where_messages_arrive_credit_is_whole_after_the_same_number_of_updates_in_any_run(monkeypatch):
    """Not where they vanish: there it takes the run. A rule that goes on from its state goes on with the rise."""
    monkeypatch.setattr("hbll_seq.rules.depth.credit.RISE", 8)
    for kind, arrives in (("normed", True), ("gpt", True), ("vit", True), ("mlp", False)):
        net, first, rule = networks(16)[kind], make(), make()
        shares = discounts(first, net, 5)
        rule.load_state_dict(first.state_dict())
        shares += discounts(rule, net, 7, 5)
        if arrives:
            assert shares == pytest.approx([min(1.0, k / 8) for k in range(12)])
        else:
            assert max(share - k / 1000 for k, share in enumerate(shares)) <= 1e-9
        rule.setup(net, torch.Generator())
        assert discounts(rule, net, 1) == [0.0]
        short = rule.step(net, data(net, seed=20), progress=0.5).metrics["discount"]
        assert short == pytest.approx(0.5) or not arrives  # a run of fewer updates than the rise


def test_credit_is_whole_once_half_of_the_examples_were_trained_on_before():
    for kind, arrives in (("gpt", True), ("vit", True), ("mlp", False)):
        net, first, rule = networks(16)[kind], make(), make()
        new = discounts(first, net, 3)
        assert max(new) < 0.01
        rule.load_state_dict(first.state_dict())
        old, other = data(net, 4, seed=1), data(net, 4, seed=9)
        for rows, whole in ((1, False), (2, True)):
            x, y = (torch.cat([a[:rows], b[rows:]]) for a, b in ((old.x, other.x), (old.y, other.y)))
            other = data(net, 4, seed=10)
            found = rule.step(net, old._replace(x=x, y=y), progress=0.004).metrics["discount"]
            assert found == 1.0 if whole and arrives else found < 0.02
        assert (discounts(rule, net, 1, 11) == [1.0]) == arrives  # from then on


def test_credit_is_whole_at_once_in_a_run_of_many_passes_over_its_data():
    """By `fit`, which counts them: 3 passes over new examples have a warm-up, more have none where messages arrive."""
    for kind, arrives in (("vit", True), ("mlp", False)):
        net = networks(16)[kind]
        x = torch.cat([data(net, 4, seed=k).x for k in range(8)])
        y = torch.cat([data(net, 4, seed=k).y for k in range(8)])
        for epochs, whole in ((3, False), (4, arrives)):
            run = hs.fit(networks(16)[kind], x, y, rule="hbll", epochs=epochs, batch_size=4, progress=False)
            first, second, *_ = run.history["discount"]
            assert first == 0.0 and (second == 1.0 if whole else second <= 1 / (8 * epochs))
    rule, net = hs.rules.make("hbll", family="layered"), networks(16)["vit"]
    run = hs.fit(net, x, y, rule=rule, epochs=4, batch_size=4, progress=False)
    assert run.history["discount"][1] == 1.0
    rule.setup(net, torch.Generator())  # of a loop that says nothing about its passes
    assert rule.step(net, data(net, 4, seed=20), progress=0.0).metrics["discount"] == 0.0
    assert rule.step(net, data(net, 4, seed=21), progress=0.01).metrics["discount"] < 0.1


def test_the_share_of_a_run_rises_and_ends_at_backpropagation():
    net = networks(6)["gpt"]
    text = torch.randint(SYMBOLS, (20000,), generator=torch.Generator().manual_seed(0))
    run = hs.fit(net, text, rule="hbll", steps=40, lr=1e-2, measure_cosine=13, progress=False)
    shares = run.history["discount"]
    assert shares == pytest.approx([k / 40 for k in range(40)])
    assert run.history["gradient_cosine"][0] < run.history["gradient_cosine"][-1] > 0.995


@pytest.mark.parametrize("execution,kind", [("sequential", "mlp"), ("sequential", "normed"), ("parallel", "normed")])
def test_a_resumed_run_is_the_whole_one(execution, kind, tmp_path):
    nets = [networks(6)[kind] for _ in range(3)]
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 1, 8, 8, generator=g), torch.randint(0, 4, (50,), generator=g)
    options = dict(rule="hbll", execution=execution, batch_size=16, lr=1e-2, steps=7, progress=False)
    whole = hs.fit(nets[0], x, y, **options)
    stop = type("Stop", (), {"on_step_end": lambda self, run, step: step == 4})()
    kept = dict(checkpoint=tmp_path / "c", checkpoint_every=2)
    hs.fit(nets[1], x, y, callbacks=[stop], **kept, **options)
    resumed = hs.fit(nets[2], x, y, resume=True, **kept, **options)
    assert resumed.history["discount"] == whole.history["discount"]
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True))


def test_a_run_may_go_on_with_the_other_paths(tmp_path):
    x, y = torch.randn(20, 64), torch.arange(20) % 4
    net, kept = MLP(64, 4, hidden=6, layers=4), dict(checkpoint=tmp_path / "c", progress=False)
    hs.fit(net, x, y, paths="any", steps=3, **kept)
    with pytest.raises(hs.InputError, match="paths"):
        hs.fit(net, x, y, steps=6, resume=True, **kept)
    run = hs.fit(net, x, y, steps=6, resume="changed", **kept)
    assert len(run.history["loss"]) == 6 and net.trained_for == "full"
    hs.fit(net, x, y, paths="any", steps=8, resume="changed", **kept)
    assert net.trained_for == "any"


def test_mixing_solves_an_affine_system_for_every_sequence_alone():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 4, 4, generator=g).double(), torch.randn(2, 3, 2, generator=g).double()

    def residual(x):
        return torch.einsum("bij,bj->bi", a, x.transpose(0, 1).reshape(3, 4)).view(3, 2, 2).transpose(0, 1) + b - x

    x, mixing = torch.zeros_like(b), Mixing()
    for _ in range(5):
        x = mixing(x, residual(x))
    assert residual(x).abs().max() < 1e-5  # the plain iteration diverges
    alone = Mixing()
    one = torch.zeros_like(b[:, :1])
    for k in range(5):
        full = torch.cat([one, torch.zeros_like(b[:, 1:])], 1)
        one = alone(one, residual(full)[:, :1])
        assert k < 4 or torch.allclose(one, x[:, :1], atol=1e-5)


def test_the_triangle_holds_products_of_what_lies_between():
    found = triangle(torch.tensor([2.0, 3.0, 5.0]))
    assert torch.equal(found, torch.tensor([[1.0, 2, 6, 30], [0, 1, 3, 15], [0, 0, 1, 5], [0, 0, 0, 1]]))
    assert torch.equal(triangle(torch.zeros(0)), torch.ones(1, 1))


BAD = [
    (dict(paths="short"), "paths"),
    (dict(tree=0.5), 'tree: got 0.5 beside paths="full"; expected paths="any"'),
    (dict(paths="any", discount=1.0), 'discount: got 1.0 beside paths="any"; expected paths="full"'),
    (dict(sweeps="pipelined", execution="parallel"), 'sweeps: got .pipelined.*"pipelined" has paths="any"'),
    (dict(sweeps=2), 'sweeps: got 2 beside execution="auto"'),
    (dict(feedback=2, execution="sequential"), "feedback: got 2 beside"),
    (dict(feedback=-1, execution="parallel"), "feedback"),
    (dict(discount=1.5), "discount"),
    (dict(discount="half"), "discount"),
    (dict(execution="fast"), "execution"),
    (dict(most=0), "most"),
    (dict(feedback_tolerance=-1.0), "feedback_tolerance"),
]


@pytest.mark.parametrize("options,message", BAD)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(hs.InputError, match=message):
        make(**options)


def test_a_model_remembers_what_it_was_trained_for(tmp_path):
    x, y = torch.randn(20, 64), torch.arange(20) % 4
    run = dict(steps=2, progress=False)
    for options, wanted in (
        (dict(rule="hbll"), "full"), (dict(rule="hbll", paths="any"), "any"), (dict(rule="hbll-v1"), "any"),
        (dict(rule="bp"), "full"), (dict(rule="bp-deep"), "full"), (dict(rule="bp", path="short"), None),
        (dict(rule="hbll", paths="any", measure_cosine=1), "any"),
    ):  # fmt: skip
        net = MLP(64, 4, hidden=6, layers=4)
        assert net.trained_for is None
        hs.predict_anytime(net, x)
        hs.gradient(net, x, y, rule="hbll")
        assert net.trained_for is None
        hs.fit(net, x, y, **options, **run)
        hs.save(net, tmp_path / "m")
        again = hs.load(tmp_path / "m")
        assert net.trained_for == again.trained_for == wanted
        if wanted == "full":
            with pytest.raises(
                hs.InputError, match='full path alone; expected one trained for every path.*paths="any"'
            ):
                hs.predict_anytime(again, x)
        else:
            hs.predict_anytime(again, x)


def test_a_draft_of_a_model_for_the_full_path_warns_and_is_right():
    net = GPT(SYMBOLS, context=12, hidden=12, heads=2, layers=4)
    hs.fit(net, torch.arange(100) % SYMBOLS, steps=2, progress=False)
    with pytest.warns(UserWarning, match="trained for its full path alone"):
        text = hs.draft_and_verify(net, torch.tensor([1, 2]), 5).text
    assert torch.equal(text, net.generate(torch.tensor([1, 2]), 5, temperature=0))
