"""A run that is interrupted or diverges leaves whole, finite weights and what it recorded."""

import math

import pytest
import torch
from runs import QUICK, TEXT, lm, weights

import hbll_seq as hs


def test_interrupting_returns_what_was_reached():
    class Press:
        def on_step_end(self, run, step):
            if step == 3:
                raise KeyboardInterrupt

    model = lm()
    run = hs.fit(model, TEXT, rule="bptt", callbacks=[Press()], **QUICK)
    assert run.stopped_reason == "interrupted" and run.history["step"] == [1, 2, 3]
    three = lm()
    hs.fit(three, TEXT, rule="bptt", schedule=lambda i: 1 - i / 6, **QUICK | dict(steps=3))
    assert torch.equal(weights(model), weights(three))


class Breaks(hs.Rule):
    """BPTT that is interrupted, or goes wrong, at one step."""

    name = "breaks"

    def __init__(self, at, how):
        self.at, self.how, self.calls, self.inner = at, how, 0, hs.rules.make("bptt")

    def step(self, model, batch, progress):
        self.calls += 1
        result = self.inner.step(model, batch, progress)
        if self.calls == self.at:
            if self.how == "interrupt":
                with torch.no_grad():
                    next(model.parameters()).add_(1.0)  # half an update
                raise KeyboardInterrupt
            if self.how == "gradient":
                next(model.parameters()).grad[0, 0] = math.nan
            if self.how == "loss":
                blocks = torch.tensor([1.0, 2.0, math.inf, math.nan])
                return result._replace(loss=math.nan, block_loss=blocks)
        return result


def test_an_interrupt_inside_a_step_leaves_whole_weights():
    model, two = lm(), lm()
    run = hs.fit(model, TEXT, rule=Breaks(3, "interrupt"), schedule="constant", **QUICK)
    hs.fit(two, TEXT, rule="bptt", schedule="constant", **QUICK | dict(steps=2))
    assert run.stopped_reason == "interrupted" and torch.equal(weights(model), weights(two))


@pytest.mark.parametrize(
    "how,says", [("loss", "step 4, first in block 2: loss nan"), ("gradient", "step 4.*gradient norm nan")]
)
def test_divergence_keeps_the_weights_of_the_last_finite_loss(how, says):
    model, good = lm(), lm()
    with pytest.raises(hs.DivergenceError, match=says) as caught:
        hs.fit(model, TEXT, rule=Breaks(4, how), schedule="constant", **QUICK)
    hs.fit(good, TEXT, rule="bptt", schedule="constant", **QUICK | dict(steps=2))
    assert torch.equal(weights(model), weights(good))  # those that step 3 found finite
    assert len(caught.value.history.history["loss"]) == 3 and caught.value.history.stopped_reason == "diverged"


class WithOwnWeight(Breaks):
    """Its own weight gets a NaN gradient, or it gives up by itself."""

    name = "own weight"

    def setup(self, model, generator):
        self.weight = torch.nn.Parameter(torch.ones(1))

    def parameters(self):
        return [self.weight]

    def step(self, model, batch, progress):
        result = super().step(model, batch, progress)
        self.weight.grad = torch.tensor([math.nan if self.calls == self.at and self.how == "nan" else 0.0])
        if self.calls == self.at and self.how == "raise":
            raise hs.DivergenceError("block 3 of step 4: said by the rule")
        return result


@pytest.mark.parametrize("how,says", [("nan", "step 4"), ("raise", "said by the rule")])
def test_a_rule_that_breaks_down_is_a_divergence_with_weights_and_history(how, says):
    model, good, rule = lm(), lm(), WithOwnWeight(4, how)
    with pytest.raises(hs.DivergenceError, match=says) as caught:
        hs.fit(model, TEXT, rule=rule, schedule="constant", **QUICK)
    hs.fit(good, TEXT, rule="bptt", schedule="constant", **QUICK | dict(steps=2))
    assert torch.equal(weights(model), weights(good)) and rule.weight.isfinite().all()
    assert len(caught.value.history.history["loss"]) == 3 and caught.value.history.stopped_reason == "diverged"


@pytest.mark.parametrize("rule", ["hbll", "bptt"])
def test_a_learning_rate_far_too_high_diverges_loudly(rule):
    model = hs.models.SequenceModel(
        2,
        1,
        input_kind="features",
        task="sequence",
        objective="mse",
        cell=torch.nn.RNN(2, 6, nonlinearity="relu", batch_first=True),
    )
    x, y = torch.randn(8, 60, 2), torch.randn(8, 1)
    with pytest.raises(hs.DivergenceError, match="smaller lr"):
        hs.fit(model, x, y, rule=rule, lr=1e18, optimizer="sgd", clip=None, steps=20, progress=False)
    assert torch.isfinite(weights(model)).all()


def test_divergence_names_the_block_also_for_one_target_a_sequence():
    model = hs.models.SequenceModel(
        1, 1, input_kind="features", task="sequence", objective="mse", cell="mingru", hidden=3
    )
    x = torch.zeros(2, 40, 1)
    x[1, 25] = 1e12  # finite, but not what the cell makes of it
    with torch.no_grad():
        model.rnn.weight_ih_l0.fill_(1e27)
    with pytest.raises(hs.DivergenceError, match="step 1, first in block 3: loss nan"):
        hs.fit(model, x, torch.zeros(2, 1), block_size=8, steps=2, progress=False)


def test_an_update_to_weights_that_are_not_finite_is_taken_back():
    class Overshoots(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            self.param_groups[0]["params"][0].data[0, 0] = math.inf

    model = lm()
    before = weights(model)
    with pytest.raises(hs.DivergenceError, match="step 1.*weights that are not finite") as caught:
        hs.fit(model, TEXT, rule="bptt", optimizer=Overshoots, **QUICK | dict(steps=1))  # no later loss to notice it
    assert torch.equal(weights(model), before) and caught.value.history.stopped_reason == "diverged"
