"""How much of a run is done is an argument of a rule's step: `fit`, `step` and `gradient` pass it, nobody sets it."""

import math

import pytest
import torch
from cases import batch, model

import hbll_seq as hs

ROUNDS = dict(block_size=5, sweeps=4, feedback=4, check_every=0)  # of four blocks: exact


def flat(found):
    return torch.cat([g.flatten() for g in found.values()])


class Listens(hs.Rule):
    """BPTT that writes down what it is told."""

    name = "listens"

    def __init__(self):
        self.told, self.inner = [], hs.rules.make("bptt")

    def step(self, model, batch, progress):
        self.told.append(progress)
        return self.inner.step(model, batch)


def test_fit_tells_every_step_and_a_measurement_what_it_tells_that_step():
    text, rule = torch.arange(400) % 5, Listens()
    lm = hs.models.CharLM(5, hidden=8)
    hs.fit(lm, text, rule=rule, steps=4, batch_size=3, window=40, measure_cosine=2, progress=False)
    assert rule.told == [0, 0, 1 / 4, 2 / 4, 2 / 4, 3 / 4]


def test_loops_of_one_s_own_say_it_or_have_the_end_of_a_run():
    net, data, rule = model("gru"), batch(2, 9), Listens()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    hs.step(net, data, rule, optimizer)
    hs.step(net, data, rule, optimizer, progress=0.25)
    hs.gradient(net, data.x, data.y, rule=rule)
    hs.gradient(net, data.x, data.y, rule=rule, progress=0)
    assert rule.told == [1, 0.25, 1, 0]


@pytest.mark.parametrize("execution", ["sequential", "parallel"])
def test_where_every_step_has_a_target_credit_grows_from_truncated_to_whole(execution):
    net, data = model("gru"), batch(3, 20)
    options = (
        dict(execution=execution, **ROUNDS) if execution == "parallel" else dict(execution=execution, block_size=5)
    )
    start, middle, end = (
        flat(hs.gradient(net, data.x, data.y, rule="hbll", progress=p, **options)) for p in (0.0, 0.5, 1.0)
    )
    whole = hs.gradient(net, data.x, data.y, rule="bptt")
    cut = hs.gradient(net, data.x, data.y, rule="tbptt", block_size=5)
    torch.testing.assert_close(end, flat(whole))
    torch.testing.assert_close(start, flat(cut))
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in ((start, end), (start, middle), (middle, end)))
    torch.testing.assert_close(end, flat(hs.gradient(net, data.x, data.y, rule="hbll", **options)))


def test_where_blocks_have_no_targets_credit_is_whole_at_any_progress():
    net, data = model("gru", task="sequence"), batch(3, 20, task="sequence")
    first, last = (flat(hs.gradient(net, data.x, data.y, rule="hbll", progress=p, **ROUNDS)) for p in (0.0, 1.0))
    assert torch.equal(first, last)


def test_the_gradient_at_0_is_that_of_the_first_update_of_a_run():
    net, data, seen = model("gru"), batch(3, 20), []

    class First:
        def on_step_end(self, run, step):
            seen.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
            return True

    start, end = (flat(hs.gradient(net, data.x, data.y, rule="hbll", progress=p, **ROUNDS)) for p in (0.0, 1.0))
    options = dict(steps=5, batch_size=3, clip=None, progress=False)  # one batch holds all of the data
    hs.fit(net, data.x, data.y, rule="hbll", callbacks=[First()], **options, **ROUNDS)
    torch.testing.assert_close(seen[0], start)
    assert not torch.allclose(seen[0], end, rtol=1e-3)


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan, True, "half", None])
def test_what_is_no_share_is_refused_before_any_work(value):
    net, data, rule = model("gru"), batch(2, 9), Listens()
    with pytest.raises(hs.InputError, match=f"progress: got {value!r}; expected a number from 0 to 1"):
        hs.gradient(net, data.x, data.y, rule=rule, progress=value)
    with pytest.raises(hs.InputError, match="^progress: got"):
        hs.step(net, data, rule, torch.optim.SGD(net.parameters(), lr=0.1), progress=value)
    assert rule.told == []


def test_a_step_without_progress_is_refused_where_it_is_written():
    says = (
        r"rule: got Old with step\(self, model, batch\); "
        r"expected step\(self, model, batch, progress\), where progress is the share of the run"
    )
    with pytest.raises(hs.InputError, match=says):

        @hs.rules.register
        class Old(hs.Rule):
            name = "old"

            def step(self, model, batch):
                return hs.rules.make("bptt").step(model, batch)

    assert "old" not in hs.rules.available()
    with pytest.raises(hs.InputError, match="rule: got Nameless"):  # it is passed by name

        class Nameless(hs.Rule):
            def step(self, model, batch, progress, /):
                return hs.rules.make("bptt").step(model, batch)


def test_a_plan_that_fit_cannot_call_is_refused_where_it_is_written():
    for wrong in (3, lambda self: None, lambda self, passes, more: None):
        with pytest.raises(hs.InputError, match=r"rule: got Planned with plan = .*expected plan\(self, passes\)"):
            type("Planned", (hs.Rule,), {"step": lambda self, model, batch, progress: None, "plan": wrong})


@pytest.mark.parametrize(("options", "passes"), [({}, 1.0), ({"accumulate": 2}, 2.0), ({"validation": 0.5}, 2.0)])
def test_fit_tells_a_rule_its_passes_before_it_is_set_up(options, passes):
    told = []

    class Asks(Listens):
        plan = lambda self, passes: told.append(passes)
        setup = lambda self, model, generator: told.append("set up")

    x, y = torch.randint(7, (24, 9)), torch.randint(7, (24, 9))
    hs.fit(model("gru"), x, y, rule=Asks(), steps=6, batch_size=4, progress=False, **options)
    assert told == [passes, "set up"]


@pytest.mark.parametrize("rate", [-1.0, "fast", None, math.nan])
def test_a_rate_that_is_no_number_is_refused(rate):
    class Encoded(Listens):
        def parameters(self):
            return [torch.nn.Parameter(torch.zeros(2))]

    rule, data = Encoded(), batch(2, 9)
    rule.rate = rate
    with pytest.raises(hs.InputError, match="rule.rate: got"):
        hs.fit(model("gru"), data.x, data.y, rule=rule, steps=1, progress=False)


def test_every_way_to_take_it_by_name_will_do():
    class Keyword(hs.Rule):
        name = "keyword"

        def step(self, model, batch, *, progress):
            return hs.rules.make("bptt").step(model, batch)

    class Any(hs.Rule):
        name = "any"

        def step(self, *args, **options):
            return hs.rules.make("bptt").step(*args, **options)

    net, data = model("gru"), batch(2, 9)
    exact = flat(hs.gradient(net, data.x, data.y))
    for rule in (Keyword(), Any()):
        assert torch.equal(flat(hs.gradient(net, data.x, data.y, rule=rule)), exact)


@pytest.mark.parametrize("family,name", sorted(hs.rules.base._RULES))
def test_the_attribute_of_old_is_refused_on_every_rule(family, name):
    rule = hs.rules.make(name, family=family)
    with pytest.raises(hs.InputError, match=r"progress: got 0.5, set on a rule; expected hs.step\(..., progress"):
        rule.progress = 0.5
    with pytest.raises(AttributeError, match=r"progress is gone: hs.step\(..., progress"):
        _ = rule.progress
