"""What `fit` may train and how: parameter groups, modes of parts, dtypes, contexts without gradients."""

import pytest
import torch
from runs import QUICK, TEXT, Dropping, classifier, lm

import hbll_seq as hs


def test_parameter_groups_keep_their_own_rates_scaled_by_the_schedule():
    model = lm()
    still, before = model.readout.weight.detach().clone(), model.rnn.weight_hh_l0.detach().clone()
    rates = []

    def groups(parameters, lr):
        own = [p for p in parameters if p is model.readout.weight]
        slow = [p for p in parameters if p is model.embedding.weight]
        rest = [p for p in parameters if p is not model.readout.weight and p is not model.embedding.weight]
        groups.made = torch.optim.SGD(
            [{"params": own, "lr": 0.0}, {"params": slow, "lr": lr / 10}, {"params": rest}], lr=lr
        )
        return groups.made

    def note(run, step):
        rates.append([group["lr"] for group in groups.made.param_groups])

    seen = type("Seen", (), {"on_step_end": staticmethod(note)})()
    run = hs.fit(model, TEXT, lr=0.1, optimizer=groups, callbacks=[seen], **QUICK)
    assert torch.equal(model.readout.weight, still) and not torch.equal(model.rnn.weight_hh_l0, before)
    assert [r[2] for r in rates] == run.history["lr"] and rates[0][2] > rates[-1][2] > 0
    assert all(r[0] == 0 and r[1] == pytest.approx(r[2] / 10) for r in rates)


@pytest.mark.parametrize("rule", ["bptt", "hbll"])
def test_an_optimiser_over_some_parameters_sees_the_gradient_of_one_update(rule):
    norms = []
    for whole in (True, False):
        model = lm()
        rest = [p for name, p in model.named_parameters() if not name.startswith("readout")]
        groups = [{"params": model.readout.parameters()}, *([{"params": rest, "lr": 0.0}] if whole else [])]
        run = hs.fit(model, TEXT, rule=rule, optimizer=torch.optim.SGD(groups, lr=0.1), clip=0.05, **QUICK)
        assert all(p.grad is None for p in model.parameters())
        norms.append((run.history["grad_norm"], model.readout.weight))
    assert norms[0][0] == norms[1][0] and torch.equal(norms[0][1], norms[1][1])


def test_an_optimiser_with_a_closure_is_refused():
    model = lm()
    for given in (torch.optim.LBFGS, torch.optim.LBFGS(model.parameters())):
        with pytest.raises(hs.InputError, match="optimizer: got LBFGS, whose step needs a closure"):
            hs.fit(model, TEXT, optimizer=given, **QUICK)


def test_parts_that_their_owner_set_to_evaluation_stay_there():
    model = hs.models.CharLM(5, cell=Dropping(), embedding=8)
    model.rnn.dropout.eval()
    modes = []
    look = type("Look", (), {"on_step_end": staticmethod(lambda run, step: modes.append(model.rnn.dropout.training))})()
    hs.fit(model, TEXT, callbacks=[look], **QUICK)
    assert not any(modes) and model.training and not model.rnn.dropout.training
    model.eval()  # as after loading: the run trains, and gives the mode back
    modes.clear()
    hs.fit(model, TEXT, callbacks=[look], **QUICK)
    assert all(modes) and not any(m.training for m in model.modules())


@pytest.mark.parametrize("rule", ["hbll", "bptt", "tbptt", "dsf"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_too_coarse_to_train_are_refused(rule, dtype):
    model = lm().to(dtype)
    for call in (hs.fit, hs.gradient):
        with pytest.raises(hs.InputError, match="float32 or float64"):
            call(model, TEXT, rule=rule, **(QUICK if call is hs.fit else {}))


@pytest.mark.parametrize("rule", ["hbll", "bptt", "tbptt", "dsf"])
def test_under_autocast_recurrent_models_train_in_their_weights_precision(rule):
    model = lm()
    exact = hs.gradient(model, TEXT, rule=rule)
    with torch.autocast("cpu", torch.bfloat16):
        found = hs.gradient(model, TEXT, rule=rule)
        run = hs.fit(model, TEXT, rule=rule, **QUICK)
    other = hs.fit(lm(), TEXT, rule=rule, **QUICK)
    assert all(torch.equal(g, found[n]) for n, g in exact.items())
    assert run.history["loss"] == other.history["loss"]


def test_contexts_without_gradients():
    model, x, y = classifier(), torch.randn(3, 6, 2), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        hs.predict(model, x)
        with pytest.raises(hs.InputError, match="inference_mode"):
            hs.fit(model, x, y, steps=1, progress=False)
        made = classifier()
    with pytest.raises(hs.InputError, match="inference_mode"):
        hs.gradient(made, x, y)
    with torch.no_grad():
        before = model.readout.weight.clone()
        hs.fit(model, x, y, steps=1, progress=False)
    assert not torch.equal(model.readout.weight, before)


def test_a_frozen_model_is_refused():
    model = classifier().requires_grad_(False)
    for rule in ("hbll", "bptt", "tbptt", "dsf", "hbll-v1"):
        with pytest.raises(hs.InputError, match="requires grad"):
            hs.fit(model, torch.randn(3, 6, 2), [0, 1, 2], rule=rule, steps=1, progress=False)
