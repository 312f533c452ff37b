"""Runs of modules of a user's own: metrics, validation, files, callbacks, optimisers, layers that are not always used."""

import copy
import io

import pytest
import torch
from own_modules import Attending, Labeller, Regression, Speech, features, label_sequences, labels
from runs import weights
from torch import nn
from torch.nn import functional

import hbll_seq as hs
from hbll_seq.data.batch import Batch

LENGTHS = [24, 17, 9, 21, 30, 12, 25, 14]
X, Y = features(LENGTHS), labels((8,), 3)
FAST = dict(loss="cross_entropy", steps=6, batch_size=3, progress=False)


def made(kind, seed=0):
    torch.manual_seed(seed)
    return kind()


def accuracy(out, y):
    return (out.argmax(-1) == y).float().mean()


class Mean:
    """A metric in the manner of torchmetrics: the share of right answers over all updates since `reset`."""

    def __init__(self):
        self.resets = 0
        self.reset()

    def reset(self):
        self.right, self.all, self.resets = 0, 0, self.resets + 1

    def update(self, out, y):
        self.right, self.all = self.right + int((out.argmax(-1) == y).sum()), self.all + len(y)

    def compute(self):
        return torch.tensor(self.right / self.all)


@pytest.mark.parametrize("rule", ["bptt", "tbptt", "dsf", "hbll"])
def test_one_word_is_the_rule(rule):
    module = made(Labeller)
    x = labels((12, 20), 7)
    run = hs.fit(
        module, x, (x + 1) % 4, loss="cross_entropy", rule=rule, steps=60, batch_size=4, lr=3e-2, progress=False
    )
    assert run.history["loss"][-1] < 0.5 * run.history["loss"][0] and len(run.history["depth"]) == 60
    if rule == "hbll":
        assert set(run.history["discount"]) == {1.0} and len(run.history["schedule"]) == 60
        assert {"sweeps", "inconsistency", "boundaries"} <= run.history.keys()


def test_metrics_are_recorded_shown_and_validated(capsys):
    module, kept = made(Attending), Mean()
    metrics = {"right": accuracy, "kept": kept, "steps": lambda out, y, lengths: float(lengths.max())}
    run = hs.fit(module, X, Y, validation=(X[:5], Y[:5]), metrics=metrics, rule="hbll", **FAST | dict(progress=True))
    assert "right=" in capsys.readouterr().out
    h = run.history
    assert h["right"] == h["kept"] and len(h["right"]) == 6
    assert h["val_right"] == pytest.approx(h["val_accuracy"]) and h["val_kept"] == pytest.approx(h["val_accuracy"])
    assert h["val_steps"] == [30.0] * 6
    found = hs.evaluate(module, X, Y, loss="cross_entropy", metrics=metrics, batch_size=3)
    assert found["right"] == pytest.approx(found["accuracy"]) and found["kept"] == pytest.approx(found["accuracy"])
    assert kept.all == 0 and hs.History.from_json(run.to_json()).history["val_right"] == h["val_right"]


def test_metrics_see_the_targets_that_count_and_label_sequences_of_ctc():
    seen = []
    x, y = [labels((n,), 7, seed=n) for n in LENGTHS], [labels((n,), 4, seed=n) for n in LENGTHS]
    hs.evaluate(made(Labeller), x, y, loss="cross_entropy", metrics={"m": lambda out, t: seen.append((out, t)) or 0.0})
    assert torch.equal(seen[0][1], torch.cat(y)) and seen[0][0].shape == (sum(LENGTHS), 4)
    targets = label_sequences([3, 0, 2, 1, 4, 2, 1, 3])
    hs.evaluate(made(Speech), X, targets, loss="ctc", metrics={"m": lambda out, t: seen.append((out, t)) or 0.0})
    assert all(torch.equal(a, b) for a, b in zip(seen[1][1], targets, strict=True)) and seen[1][0].shape == (8, 15, 5)


def test_metrics_of_a_model_of_this_package():
    model, other = (hs.models.SequenceModel(3, 3, input_kind="features", task="sequence", hidden=6) for _ in range(2))
    run = hs.fit(model, X, Y, metrics={"right": accuracy}, rule="hbll", **FAST | dict(loss=None))
    plain = hs.fit(other, X, Y, rule="hbll", **FAST | dict(loss=None))
    assert run.model is model and len(run.history["right"]) == 6
    assert run.history["loss"] == pytest.approx(plain.history["loss"], rel=1e-3)


class Stop:
    def __init__(self, at):
        self.at = at

    def on_step_end(self, run, step):
        return step == self.at


@pytest.mark.parametrize("rule", ["hbll", "bptt", "dsf"])
def test_a_resumed_run_equals_a_whole_one_and_the_file_has_the_modules_names(rule, tmp_path):
    options = dict(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])), rule=rule, steps=7, batch_size=3,
                   validation=0.25, accumulate=2, metrics={"right": accuracy}, progress=False, checkpoint_every=2)  # fmt: skip

    def dropping(seed=0):
        module = made(Attending, seed)
        module.attention.dropout = 0.3
        return module

    whole, again = dropping(), dropping(5)
    a = hs.fit(whole, X, Y, **options)
    hs.fit(dropping(), X, Y, checkpoint=tmp_path / "c", callbacks=[Stop(4)], **options)
    b = hs.fit(again, X, Y, checkpoint=tmp_path / "c", resume=True, **options)
    assert torch.equal(weights(whole), weights(again))
    assert a.history["loss"] == b.history["loss"] and a.history["val_right"] == b.history["val_right"]
    with pytest.raises(hs.InputError, match="resume: .*loss was .*weight"):
        hs.fit(dropping(), X, Y, checkpoint=tmp_path / "c", resume=True, **options | dict(loss="cross_entropy"))
    tensors, _ = hs.checkpoint.read(tmp_path / "c", "checkpoint")
    assert any("rnn.weight_hh_l0" in name for name in tensors) and not any("module.rnn" in name for name in tensors)


def test_targets_and_weights_are_compared_on_resuming(tmp_path):
    y, few = Y.clone(), Y.clone()
    few[0] = -100
    options = FAST | dict(rule="bptt", checkpoint=tmp_path / "c", checkpoint_every=2)
    for given in (dict(y=few), dict(y=y, sample_weight=torch.arange(8.0))):
        hs.fit(made(Attending), X, **given, **options)
        with pytest.raises(hs.InputError, match="resume: .*data was"):
            hs.fit(made(Attending), X, y, resume=True, **options)


def test_early_stopping_puts_the_best_weights_back():
    module = made(Regression)
    x = torch.stack([one[:9] for one in X])
    stop = hs.callbacks.EarlyStopping(patience=2)
    run = hs.fit(module, x, Y.float()[:, None].expand(8, 2), loss="mse", validation=0.25, validate_every=1, lr=0.3,
                 steps=60, progress=False, callbacks=[stop])  # fmt: skip
    best = min(run.history["val_loss"])
    found = hs.evaluate(module, x[6:], Y.float()[6:, None].expand(2, 2), loss="mse")
    assert found["loss"] == pytest.approx(best, rel=1e-4)


def test_an_optimiser_with_groups_keeps_its_own_rates():
    module = made(Attending)
    start = copy.deepcopy(module.state_dict())
    optimizer = torch.optim.SGD(
        [{"params": module.rnn.parameters(), "lr": 0.1}, {"params": module.head.parameters()}], lr=0.2
    )
    run = hs.fit(module, X, Y, optimizer=optimizer, schedule="linear", rule="hbll", **FAST)
    assert run.history["lr"][0] == 0.1 and [g["lr"] for g in optimizer.param_groups] == [0.1, 0.2]
    moved = {name for name, p in module.state_dict().items() if not torch.equal(p, start[name])}
    assert {"rnn.weight_hh_l0", "head.weight"} <= moved and not any(name.startswith("attention") for name in moved)
    with pytest.raises(hs.InputError, match="optimizer: got an optimiser over other parameters"):
        hs.fit(made(Attending), X, Y, optimizer=optimizer, **FAST)
    with pytest.raises(hs.InputError, match="weight_decay: got 0.1 beside an optimiser"):
        hs.fit(module, X, Y, optimizer=optimizer, weight_decay=0.1, **FAST)


class Branching(nn.Module):
    """Three layers: one runs where a sum is positive, one twice, one never."""

    def __init__(self):
        super().__init__()
        self.some = nn.GRU(3, 3, batch_first=True)
        self.twice = nn.LSTM(3, 3, batch_first=True)
        self.never = nn.RNN(3, 3, batch_first=True)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        if float(x.detach().sum()) > 0:
            x = self.some(x)[0]
        x = self.twice(x)[0]
        return self.head(self.twice(x.tanh())[0][:, -1])


@pytest.mark.parametrize("rule", ["hbll", "bptt", "tbptt"])
def test_layers_called_twice_or_never_have_the_right_gradient(rule):
    module = made(Branching).double()
    options = dict(tolerance=1e-12, feedback_tolerance=1e-24, most=99, execution="parallel", execution_block=4)
    given = {"hbll": options, "bptt": {}, "tbptt": dict(block_size=99)}[rule]
    for sign in (1, -1):
        x = sign * torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(3)).abs()
        found = hs.gradient(module, x, Y[:4], loss="cross_entropy", rule=rule, **given)
        loss = functional.cross_entropy(module(x.double()), Y[:4])
        expected = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
        for (name, g), e in zip(found.items(), expected, strict=True):
            e = torch.zeros_like(g) if e is None else e
            assert torch.allclose(g, e, atol=1e-9), (name, sign)
    run = hs.fit(module, torch.cat([x, -x]), labels((8,), 3), **FAST | dict(rule=rule, batch_size=1, steps=8))
    assert len(run.history["loss"]) == len(run.history["depth"]) == 8


def test_an_update_that_calls_no_layer_is_recorded_as_such():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x):
            return self.head((self.rnn(x)[0] if float(x.detach().sum()) > 0 else x)[:, -1])

    x = torch.ones(6, 8, 3)
    x[::2] = -1
    run = hs.fit(made(Sometimes), x, Y[:6], rule="hbll", **FAST | dict(batch_size=1))
    assert "no layer was called" in run.history["schedule"] and len(set(run.history["schedule"])) == 2


def test_measuring_and_rehearsing_leave_buffers_and_draws_alone():
    x, y = torch.stack(features([30] * 8)), Y.float()[:, None].expand(8, 2)
    plain, measured = made(Regression), made(Regression)
    options = FAST | dict(loss="mse", rule="hbll", execution="parallel", execution_block=3)
    hs.fit(plain, x, y, check_every=0, **options)
    run = hs.fit(measured, x, y, check_every=1, measure_cosine=1, **options)
    assert min(run.history["gradient_cosine"]) > 0.9999 and max(map(abs, run.history["deployed_gap"])) < 1e-3
    assert torch.equal(plain.norm.running_mean, measured.norm.running_mean) and measured.norm.num_batches_tracked == 6
    module, state = made(Regression), torch.get_rng_state()
    hs.gradient(module, x, y, loss="mse")
    assert module.norm.num_batches_tracked == 0 and torch.equal(state, torch.get_rng_state())


def test_a_module_without_layers_trains_by_plain_autograd():
    module = nn.Sequential(nn.Flatten(), nn.Linear(27, 8), nn.Tanh(), nn.Linear(8, 3))
    run = hs.fit(module, torch.stack([one[:9] for one in X]), Y, rule="bptt", **FAST | dict(steps=40, lr=0.05))
    assert run.history["loss"][-1] < 0.3 * run.history["loss"][0]


def test_predictions_are_cut_to_lengths():
    module = made(Speech)
    found = hs.predict(module, X, batch_size=3)
    assert [len(one) for one in found] == [(n + 1) // 2 for n in LENGTHS]
    alone = module.eval()(X[1][None], torch.tensor([17]))[0][0]
    assert torch.allclose(found[1], alone, atol=1e-6)
    symbols = [labels((n,), 7, seed=n) for n in LENGTHS]
    assert [tuple(one.shape) for one in hs.predict(made(Labeller), symbols)] == [(n, 4) for n in LENGTHS]
    assert hs.predict(made(Attending), X).shape == (8, 3)
    out = hs.predict(nn.GRU(3, 4, batch_first=True), torch.stack([one[:9] for one in X]))
    assert out.shape == (8, 9, 4)


@pytest.mark.parametrize("rule", ["hbll", "bptt"])
def test_a_loop_of_ones_own(rule):
    module, twin = made(Attending), made(Attending)
    learner, optimizer = hs.rules.make(rule), torch.optim.SGD(module.parameters(), lr=0.1)
    x = nn.utils.rnn.pad_sequence(X, batch_first=True)
    batch = Batch(x, torch.tensor(LENGTHS), Y, None)
    info = hs.step(module, batch, learner, optimizer, loss="cross_entropy", clip=None)
    loss = functional.cross_entropy(twin(x, torch.tensor(LENGTHS)), Y)
    loss.backward()
    assert info.result.loss == pytest.approx(loss.item()) and type(module.rnn) is nn.RNN
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert torch.allclose(weights(module), weights(twin), atol=1e-4)


def test_a_module_of_this_packages_layers_and_a_copy_in_a_file():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = hs.nn.GRU(3, 8, batch_first=True, dropout=0.0), nn.Linear(8, 3)

        def forward(self, x, lengths):
            return self.head(self.rnn(x)[0][torch.arange(len(x)), lengths - 1])

    module = made(Own)
    run = hs.fit(module, X, Y, rule="hbll", **FAST)
    assert type(module.rnn) is hs.nn.GRU and vars(module.rnn).get("_execution") is None
    assert len(run.history["schedule"]) == 6
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    nn.GRU(3, 8).load_state_dict({k[4:]: v for k, v in torch.load(file).items() if k.startswith("rnn.")})


def test_without_converting_a_plain_layer_stays_torchs():
    seen = []
    module = made(Attending)
    module.rnn.register_forward_pre_hook(lambda m, given: seen.append(type(m)))
    hs.fit(module, X, Y, rule="bptt", convert=False, **FAST)
    assert set(seen) == {nn.RNN}
    with pytest.raises(hs.InputError, match="rule: got 'hbll' for a Attending without recurrent layers"):
        hs.fit(module, X, Y, rule="hbll", convert=False, **FAST)
    hs.fit(module, X, Y, rule="bptt", **FAST)
    assert hs.nn.RNN in set(seen)


class Mine(nn.GRU):
    """A layer that may do more than its base."""


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.GRU(3, 4, batch_first=True), Mine(4, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x)[0])[0])


@pytest.mark.parametrize("rule", ["tbptt", "dsf"])
def test_a_rule_that_changes_credit_warns_of_layers_it_does_not_run(rule):
    x, y = torch.randn(4, 9, 3), torch.randint(2, (4, 9))
    with pytest.warns(hs.EngineWarning, match=f"rule '{rule}' does not run second"):
        hs.fit(Two(), x, y, loss="cross_entropy", rule=rule, steps=1, progress=False)
    hs.fit(Two(), x, y, loss="cross_entropy", rule="hbll", steps=1, progress=False)  # whole credit: no difference


@pytest.mark.parametrize("rule", ["tbptt", "dsf"])
def test_a_loop_of_ones_own_warns_once_of_layers_that_a_rule_does_not_run(rule):
    net, made = Two(), hs.rules.make(rule)
    x, y = torch.randn(4, 12, 3), torch.randint(0, 2, (4, 12))
    batch, opt = Batch(x, torch.full((4,), 12), y, None), torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.warns(hs.EngineWarning, match=f"rule '{rule}' does not run second"):
        hs.step(net, batch, made, opt, loss="cross_entropy")
    hs.step(net, batch, made, opt, loss="cross_entropy")  # no second warning: warnings are errors here
