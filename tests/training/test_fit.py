"""`fit` trains with every rule, repeats, resumes, and loses nothing."""

import copy
import math

import numpy as np
import pytest
import torch
from cases import NAMED, OwnCell
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import hbll_seq as hs

TEXT = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))
RULES = ["hbll", "bptt", "tbptt", "dsf"]
QUICK = dict(steps=6, batch_size=3, window=40, progress=False)


def lm(**options):
    return hs.models.CharLM(5, **{"hidden": 8, "timescale": 20.0} | options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cell", [*NAMED, "own"])
def test_every_rule_trains_every_cell(rule, cell):
    model = lm(cell=torch.nn.ModuleList([OwnCell(8, 8)]), embedding=8) if cell == "own" else lm(cell=cell, layers=2)
    text = torch.arange(400) % 5  # what comes next is certain: sixty steps lower the loss
    run = hs.fit(model, text, rule=rule, lr=2e-2, **QUICK | dict(steps=60))
    losses = run.history["loss"]
    assert losses[-1] < 0.8 * losses[0] and run.stopped_reason == "finished"
    assert all(
        len(v) == 60 for k, v in run.history.items() if k in ("step", "loss", "lr", "grad_norm", "seconds", "depth")
    )


@pytest.mark.parametrize("rule", RULES)
def test_same_seed_same_weights_and_global_state_untouched(rule):
    before = torch.random.get_rng_state()
    results = []
    for seed in (1, 1, 2):
        model = lm()
        hs.fit(model, TEXT, rule=rule, seed=seed, **QUICK)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_forms_that_mean_the_same_train_the_same():
    g = torch.Generator().manual_seed(0)
    sequences = [torch.randn(n, 2, generator=g) for n in (9, 4, 6, 1)]
    padded, labels = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True), [0, 1, 1, 0]
    forms = [sequences, (padded, [9, 4, 6, 1]), pack_sequence(sequences, enforce_sorted=False)]
    results = []
    for x in forms:
        model = hs.models.SequenceModel(2, 2, input_kind="features", task="sequence", hidden=6)
        hs.fit(model, x, labels, rule="hbll", steps=5, batch_size=2, progress=False)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


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

    def step(self, model, batch):
        self.calls += 1
        result = self.inner.step(model, batch)
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


def test_early_stopping_restores_the_best_weights():
    values = iter([3.0, 1.0, 2.0, 2.5, 2.6, 9.9])
    kept = {}

    class Fake:
        def on_validation(self, run, step):
            run.history["val_loss"][-1] = next(values)
            kept[step] = copy.deepcopy(run.model.state_dict())

    model = lm()
    stop = hs.callbacks.EarlyStopping(patience=2)
    run = hs.fit(model, TEXT, rule="bptt", validation=0.2, validate_every=1, callbacks=[Fake(), stop], **QUICK)
    assert run.stopped_reason == "early_stopping" and run.history["val_step"] == [1, 2, 3, 4]
    assert all(torch.equal(v, kept[2][k]) for k, v in model.state_dict().items())


def test_callbacks_are_called_in_order_and_callables_on_validation():
    calls = []
    watcher = type("W", (), {n: (lambda self, *a, n=n: calls.append(n)) for n in hs.callbacks.HOOKS})()
    hs.fit(
        lm(),
        TEXT,
        rule="bptt",
        validation=0.2,
        validate_every=2,
        callbacks=[watcher, lambda run, step: step == 4],
        **QUICK,
    )
    assert calls == ["on_fit_begin", "on_step_end", "on_step_end", "on_validation", "on_step_end", "on_step_end",
                     "on_validation", "on_fit_end"]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"execution": "parallel"}])
def test_measuring_the_cosine_does_not_change_the_training(options):
    plain, measured = lm(), lm()
    hs.fit(plain, TEXT, rule="hbll", **QUICK | options)
    hs.fit(measured, TEXT, rule="hbll", measure_cosine=2, **QUICK | options)
    assert torch.equal(weights(plain), weights(measured))


def test_fit_is_a_loop_over_the_public_step():
    by_fit, by_hand = lm(), lm()
    hs.fit(by_fit, TEXT, rule="hbll", schedule="constant", **QUICK)
    from hbll_seq.data.inputs import as_source

    source, rule = as_source(TEXT, None, by_hand, window=40), hs.rules.make("hbll")
    rule.setup(by_hand, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=4e-3)
    for i in range(6):
        rule.progress = i / 6
        hs.step(by_hand, source.batch(i, 3, 0), rule, optimizer)
    assert torch.equal(weights(by_fit), weights(by_hand))


def test_evaluate_and_predict_are_the_deployed_chain():
    model, x = lm(), torch.randint(0, 5, (3, 30))
    figures = hs.evaluate(model, x)
    logits = model(x[:, :-1])
    exact = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    assert figures["loss"] == pytest.approx(exact.item(), rel=1e-5)
    assert figures["bits"] == pytest.approx(figures["loss"] / math.log(2))
    assert figures["accuracy"] == pytest.approx(float((logits.argmax(-1) == x[:, 1:]).float().mean()), abs=1e-6)
    torch.testing.assert_close(hs.predict(model, x), model(x).detach())
    parts = hs.predict(model, [x[0, :7], x[1, :3]], probabilities=True)
    assert [p.shape for p in parts] == [(7, 5), (3, 5)] and torch.allclose(parts[1].sum(-1), torch.ones(3))
    assert model.training


def test_evaluate_weighs_lengths_right():
    model = hs.models.SequenceModel(2, 3, input_kind="features", task="step", hidden=5)
    x = [torch.randn(9, 2), torch.randn(2, 2)]
    y = [torch.randint(0, 3, (9,)), torch.randint(0, 3, (2,))]
    alone = [hs.evaluate(model, a, b)["loss"] for a, b in zip(x, y, strict=True)]
    for size in (1, 2):
        assert hs.evaluate(model, x, y, batch_size=size)["loss"] == pytest.approx(
            (9 * alone[0] + 2 * alone[1]) / 11, rel=1e-5
        )


@pytest.mark.parametrize(
    "options,says",
    [
        (dict(rule="backprop"), r"rule: got 'backprop'; expected for a recurrent model one of"),
        (dict(sweep=2), "sweep: got an option that neither fit nor the rule has"),
        (dict(rule="bptt", sweeps=2), "sweeps: got an option"),
        (dict(sweeps=-1), "sweeps: got -1"),
        (dict(block_size=0), "block_size: got 0"),
        (dict(pull="hard"), "pull: got 'hard'"),
        (dict(carry="mine"), "carry: got 'mine'"),
        (dict(steps=0), "steps: got 0"),
        (dict(steps=3, epochs=1), "epochs: got both"),
        (dict(lr=0.0), "lr: got 0.0"),
        (dict(batch_size=0), "batch_size: got 0"),
        (dict(clip=-1.0), "clip: got -1.0"),
        (dict(optimizer="adagrad2"), "optimizer: got 'adagrad2'"),
        (dict(schedule="step"), "schedule: got 'step'"),
        (dict(warmup=6), "warmup: got 6"),
        (dict(validation=1.5), "validation: got 1.5"),
        (dict(validation=TEXT + 3), "validation: x: got symbols"),
        (dict(device="cuda:7"), "device: got 'cuda:7'"),
        (dict(callbacks=[3]), "callbacks: got int"),
        (dict(resume=True), "resume: got True without a checkpoint"),
        (dict(checkpoint="/no/such/folder/run"), "checkpoint: got '/no/such/folder/run', whose folder"),
        (dict(clip="hard"), "clip: got 'hard'"),
        (dict(weight_decay=-1.0), "weight_decay: got -1.0"),
        (dict(measure_cosine=0), "measure_cosine: got 0"),
        (dict(seed=2**60), "seed: got 1152921504606846976"),
        (dict(rule=3), "rule: got int"),
        (dict(device=3.5), "device: got 3.5"),
        (dict(validation=0.001), "validation: got 0.001 of a text of 400 symbols"),
        (dict(callbacks=[hs.callbacks.EarlyStopping()]), "validation: got None, and a callback that waits"),
        (dict(callbacks=[lambda run, step: None]), "validation: got None, and a callback that waits"),
    ],
)
def test_bad_arguments_are_named_before_any_weight_changes(options, says):
    model = lm()
    before = weights(model)
    with pytest.raises(hs.InputError, match=says):
        hs.fit(model, TEXT, **QUICK | options)
    assert torch.equal(weights(model), before)


def test_the_bar_writes_to_stdout_only(capsys):
    hs.fit(lm(), TEXT, rule="bptt", **QUICK | dict(progress=True))
    out, err = capsys.readouterr()
    assert "step" in out and err == ""
    hs.fit(lm(), TEXT, rule="bptt", **QUICK)
    assert capsys.readouterr().out == ""


def loader(**options):
    g = torch.Generator().manual_seed(3)
    data = TensorDataset(torch.randn(8, 6, 2, generator=g), torch.randint(0, 3, (8,), generator=g))
    return DataLoader(data, **{"batch_size": 3, "shuffle": True} | options)


def classifier(seed=0):
    return hs.models.SequenceModel(2, 3, input_kind="features", task="sequence", hidden=4, seed=seed)


def test_a_shuffling_loader_repeats_by_seed_and_leaves_the_global_state():
    results = []
    for seed in (1, 1, 2):
        torch.rand(seed * len(results))  # the order must not come from here
        before, model = torch.get_rng_state(), classifier()
        hs.fit(model, loader(), rule="bptt", steps=7, seed=seed, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.arange(9) % 5


def test_a_loader_without_a_length_trains_for_steps_and_not_for_epochs():
    assert len(hs.fit(lm(), DataLoader(Endless(), batch_size=2), rule="bptt", **QUICK).history["loss"]) == 6
    with pytest.raises(hs.InputError, match="steps: got None"):
        hs.fit(lm(), DataLoader(Endless(), batch_size=2), rule="bptt", progress=False)
    with pytest.raises(hs.InputError, match="x: got a DataLoader without batches"):
        hs.fit(lm(), DataLoader([], batch_size=2), rule="bptt", **QUICK)


def test_numpy_numbers_are_numbers():
    run = hs.fit(
        lm(), TEXT, rule="bptt", lr=np.float32(1e-3), **QUICK | dict(steps=np.int64(2), batch_size=np.int32(2))
    )
    assert len(run.history["loss"]) == 2 and '"batch_size": 2' in run.to_json()


class Dropping(torch.nn.Module):
    """A user's cell that draws random numbers in training."""

    input_size = hidden_size = 8

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = torch.nn.Linear(16, 8), torch.nn.Dropout(0.5)

    def forward(self, x, h):
        return torch.tanh(self.linear(torch.cat([self.dropout(x), h], -1)))


def test_dropout_is_seeded_and_measuring_the_cosine_draws_nothing():
    results = []
    for options in ({}, {}, {"measure_cosine": 2}, {"seed": 1}):
        torch.manual_seed(0)
        model = hs.models.SequenceModel(5, 5, cell=Dropping(), task="next")
        before = torch.get_rng_state()
        run = hs.fit(model, TEXT, rule="bptt", **QUICK | options)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])
    # the same dropout in both gradients: BPTT against itself is exactly parallel
    run = hs.fit(model, TEXT, rule="bptt", measure_cosine=1, **QUICK)
    assert min(run.history["gradient_cosine"]) > 1 - 1e-5


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


class WithOwnWeight(Breaks):
    """Its own weight gets a NaN gradient, or it gives up by itself."""

    name = "own weight"

    def setup(self, model, generator):
        self.weight = torch.nn.Parameter(torch.ones(1))

    def parameters(self):
        return [self.weight]

    def step(self, model, batch):
        result = super().step(model, batch)
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


def test_predict_takes_a_dataset_and_says_what_it_does_not_take():
    model = classifier()
    x = loader().dataset.tensors[0]
    torch.testing.assert_close(hs.predict(model, loader().dataset), hs.predict(model, x))
    torch.testing.assert_close(hs.predict(model, x, batch_size=3), model(x).detach())
    for bad, says in [
        (loader(), "x: got a DataLoader"),
        (x * math.nan, "x: got NaN"),
        (x.transpose(1, 2), "transpose"),
    ]:
        with pytest.raises(hs.InputError, match=says):
            hs.predict(model, bad)


def test_evaluating_leaves_frozen_parts_frozen():
    model = hs.models.SequenceModel(5, 5, cell=Dropping(), task="next")
    model.rnn.eval()
    hs.evaluate(model, TEXT)
    assert model.training and not model.rnn.training
