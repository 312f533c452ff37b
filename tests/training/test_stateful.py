"""`fit(stateful=True)` is the loop one would write by hand; it resumes in the middle of a stream; one state evaluates."""

import numpy as np
import pytest
import torch
from runs import RULES, TEXT, classifier, lm, loader, weights
from torch import nn

import hbll_seq as hs
from hbll_seq.rules import StepResult
from hbll_seq.rules.bptt import BPTT

G = torch.Generator().manual_seed(4)
X, Y = torch.randn(300, 2, generator=G), torch.randint(0, 3, (300,), generator=G)
QUICK = dict(stateful=True, batch_size=3, window=20, progress=False)


def tagger(**options):
    return hs.models.SequenceModel(2, 3, **{"input_kind": "features", "hidden": 8, "timescale": 20.0} | options)


class Stop:
    def __init__(self, at):
        self.at = at

    def on_step_end(self, run, step):
        return step == self.at


class Watch(BPTT):
    """BPTT that keeps the start state of every batch."""

    name = "watch"

    def __init__(self):
        super().__init__()
        self.starts = []

    def step(self, model, batch, progress=1.0):
        self.starts.append(None if batch.state is None else [one.clone() for one in batch.state])
        return super().step(model, batch, progress)


class ByHand(nn.Module):
    """A language model of PyTorch's own parts."""

    def __init__(self, kind, width, layers):
        super().__init__()
        self.table, self.rnn = nn.Embedding(5, width), kind(width, width, layers, batch_first=True)
        self.out = nn.Linear(width, 5)

    def forward(self, x, state):
        h, state = self.rnn(self.table(x), state)
        return self.out(h), state


def by_hand(net, text, updates, size, window, lr):
    """Truncated BPTT over contiguous streams, as in PyTorch's own word language model."""
    length = (len(text) - 1) // size
    x, y = text[: size * length].view(size, length), text[1 : size * length + 1].view(size, length)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    starts = list(range(0, length, window))
    for i in range(updates):
        first = starts[i % len(starts)]
        if first == 0:
            state = None
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - i / updates)
        out, state = net(x[:, first : first + window], state)
        state = tuple(one.detach() for one in state) if isinstance(state, tuple) else state.detach()
        optimizer.zero_grad()
        nn.functional.cross_entropy(out.flatten(0, 1), y[:, first : first + window].flatten()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("dtype,atol", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("kind,layers", [(nn.GRU, 1), (nn.GRU, 2), (nn.LSTM, 1), (nn.LSTM, 2)])
def test_thirty_updates_are_those_of_a_loop_by_hand(kind, layers, dtype, atol):
    torch.manual_seed(0)
    theirs = ByHand(kind, 12, layers).to(dtype)
    rnn = kind(12, 12, layers, batch_first=True).to(dtype)
    ours = hs.models.CharLM(5, cell=rnn).to(dtype)
    rnn.load_state_dict(theirs.rnn.state_dict())
    ours.embedding.load_state_dict(theirs.table.state_dict())
    ours.readout.load_state_dict(theirs.out.state_dict())
    by_hand(theirs, TEXT, 30, 3, 18, 1e-2)  # 7 windows of 18, and one of 7
    hs.fit(ours, TEXT, rule="bptt", steps=30, batch_size=3, window=18, lr=1e-2, stateful=True, progress=False)
    for a, b in ((rnn, theirs.rnn), (ours.embedding, theirs.table), (ours.readout, theirs.out)):
        torch.testing.assert_close(weights(a), weights(b), rtol=0, atol=atol)


def test_the_state_starts_from_zero_every_epoch_and_goes_on_between():
    rule = Watch()
    run = hs.fit(lm(), TEXT, rule=rule, epochs=2, **QUICK)
    assert len(run.history["loss"]) == 14  # 133 time steps a stream: 6 windows of 20 and one of 13
    zero = [not any(one.any() for one in start) for start in rule.starts]
    assert zero == 2 * ([True] + [False] * 6)
    assert run.config["streams"] == {"streams": 3, "time_steps": 133, "left_out": 0} and run.config["stateful"]
    assert ("streams", "3 of 133 time steps") in run.table()
    run = hs.fit(lm(), TEXT[:-1], rule="bptt", steps=1, **QUICK)
    assert ("streams", "3 of 132 time steps, 2 left out") in run.table()
    rule = Watch()
    run = hs.fit(lm(), TEXT, rule=rule, steps=2, batch_size=3, window=20, progress=False)
    assert rule.starts == [None, None] and not run.config["stateful"] and "streams" not in run.config


def test_the_rows_of_a_batch_carry_their_own_states():
    rule, x, y = Watch(), X.view(6, 50, 2), Y.view(6, 50)
    model = tagger()
    hs.fit(model, x, y, rule=rule, epochs=1, lr=1e-30, **QUICK | dict(batch_size=6))
    with torch.no_grad():
        expected = model(x[:, :40], return_state=True)[1]
    torch.testing.assert_close(rule.starts[2], expected, rtol=0, atol=1e-6)
    rule = Watch()
    hs.fit(model, x, y, rule=rule, epochs=1, **QUICK | dict(batch_size=4))
    assert [len(start[0]) for start in rule.starts] == [4, 4, 4, 2, 2, 2]


def test_windows_without_a_target_make_no_update_and_carry_the_state_on():
    y, rule = Y.clone(), Watch()
    y[20:40], y[120:140], y[220:240] = -100, -100, -100
    model = tagger()
    run = hs.fit(model, X, y, rule=rule, epochs=1, lr=1e-30, **QUICK)
    assert run.history["skipped_step"] == [2] and run.history["step"] == [1, 3, 4, 5]
    with torch.no_grad():
        expected = model(X.view(3, 100, 2)[:, :40], return_state=True)[1]
    torch.testing.assert_close(rule.starts[1], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_stopped_in_the_middle_of_a_stream_goes_on_bit_for_bit(rule, layers, tmp_path):
    options = QUICK | dict(rule=rule, steps=12, validation=0.2, validate_every=4, measure_cosine=5)
    whole = lm(layers=layers)
    long = hs.fit(whole, TEXT, **options)
    for at in (3, 6, 9):
        file = dict(checkpoint=tmp_path / f"{at}", checkpoint_every=at)
        hs.fit(lm(layers=layers), TEXT, callbacks=[Stop(at)], **file, **options)
        again = lm(layers=layers, seed=5)
        run = hs.fit(again, TEXT, resume=True, **file, **options)
        assert torch.equal(weights(whole), weights(again)) and run.changes == []
        for name in ("loss", "val_loss", "grad_norm", "gradient_cosine"):
            assert run.history[name] == long.history[name], name


def test_a_run_resumed_on_other_streams_starts_from_zero_and_says_so(tmp_path):
    file = dict(checkpoint=tmp_path / "c", checkpoint_every=3)
    hs.fit(lm(), TEXT, rule="bptt", steps=8, callbacks=[Stop(3)], **file, **QUICK)
    with pytest.raises(hs.InputError, match="stateful was True, now False"):
        hs.fit(lm(), TEXT, rule="bptt", steps=8, resume=True, **file, **QUICK | dict(stateful=False))
    rule = Watch()
    rule.name = "bptt"  # the same rule to a checkpoint
    run = hs.fit(lm(), TEXT, rule=rule, steps=8, resume="changed", **file, **QUICK | dict(batch_size=5))
    assert run.changes[0]["changed"]["carried state"] == ["kept", "anew"]
    assert not rule.starts[0][0].any() and rule.starts[2][0].any() and len(rule.starts) == 5
    rule = Watch()
    rule.name = "bptt"
    run = hs.fit(lm(), TEXT, rule=rule, steps=9, resume="changed", **file, **QUICK | dict(batch_size=5))
    assert "carried state" not in run.changes[-1]["changed"]  # of the same streams, with more updates


def test_an_interrupted_run_ends_with_its_last_whole_update():
    class Interrupt(BPTT):
        name = "bptt"
        seen = 0

        def step(self, model, batch, progress=1.0):
            self.seen += 1
            found = super().step(model, batch, progress)
            if self.seen == 4:
                raise KeyboardInterrupt
            return found

    model, three = lm(), lm()
    run = hs.fit(model, TEXT, rule=Interrupt(), steps=8, **QUICK)
    assert run.stopped_reason == "interrupted" and len(run.history["loss"]) == 3
    hs.fit(three, TEXT, rule="bptt", steps=8, callbacks=[Stop(3)], **QUICK)
    assert torch.equal(weights(model), weights(three))


def test_a_state_that_is_not_finite_is_a_divergence():
    class Broken(BPTT):
        name = "broken"

        def step(self, model, batch, progress=1.0):
            found = super().step(model, batch, progress)
            return found._replace(state=[one / 0 for one in found.state])

    model, before = lm(), weights(lm())
    with pytest.raises(hs.DivergenceError, match="step 1: the state after the window is not finite") as caught:
        hs.fit(model, TEXT, rule=Broken(), steps=3, **QUICK)
    assert torch.equal(weights(model), before) and caught.value.history.stopped_reason == "diverged"


@pytest.mark.parametrize("window", [None, 1, 7, 64, 1000])
@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "mingru"])
def test_evaluation_with_one_state_does_not_depend_on_windows(cell, window):
    model = lm(cell=cell, layers=2).double()
    whole, found = hs.evaluate(model, TEXT[None]), hs.evaluate(model, TEXT, stateful=True, window=window)
    assert found == pytest.approx(whole, rel=1e-12)
    net, x = tagger(cell=cell).double(), X.double().numpy()
    whole = hs.evaluate(net, x[None], Y[None])
    assert hs.evaluate(net, x, Y, stateful=True, window=window) == pytest.approx(whole, rel=1e-12)
    rows = hs.evaluate(net, x.reshape(6, 50, 2), Y.view(6, 50), stateful=True, window=window, batch_size=4)
    assert rows == pytest.approx(hs.evaluate(net, x.reshape(6, 50, 2), Y.view(6, 50)), rel=1e-12)


@pytest.mark.parametrize("window", [None, 1, 7, 1000])
def test_predictions_with_one_state_are_those_of_the_whole(window):
    net = tagger(cell="lstm", layers=2).double()
    x = X.double()
    whole = hs.predict(net, x[None], probabilities=True)
    found = hs.predict(net, x, stateful=True, window=window, probabilities=True)
    assert found.shape == (300, 3)
    torch.testing.assert_close(found, whole[0], rtol=0, atol=1e-12)
    rows = hs.predict(net, x.view(6, 50, 2), stateful=True, window=window, batch_size=4)
    torch.testing.assert_close(rows, hs.predict(net, x.view(6, 50, 2)), rtol=0, atol=1e-12)
    assert hs.predict(lm(), TEXT.to(torch.uint8), stateful=True).shape == (400, 5)


def test_validation_reads_the_held_out_data_with_one_state():
    model = lm()
    run = hs.fit(model, TEXT[:300], rule="bptt", steps=4, validation=TEXT[300:], validate_every=4, **QUICK)
    found = hs.evaluate(model, TEXT[300:], stateful=True)
    assert run.history["val_loss"][-1] == pytest.approx(found["loss"], rel=1e-6)
    model = lm()
    run = hs.fit(model, TEXT, rule="bptt", steps=4, validation=0.25, validate_every=4, **QUICK)
    assert run.history["val_loss"][-1] == pytest.approx(hs.evaluate(model, TEXT[300:], stateful=True)["loss"], rel=1e-6)
    run = hs.fit(tagger(), X, Y, rule="tbptt", steps=4, validation=(X[:30], Y[:30]), **QUICK)
    assert set(run.history) >= {"val_loss", "val_accuracy"}


def test_memory_of_evaluation_does_not_grow_with_the_series(monkeypatch):
    sizes = []
    forward = hs.models.SequenceModel.forward

    def watched(self, x, *args, **options):
        sizes.append(x.numel())
        return forward(self, x, *args, **options)

    monkeypatch.setattr(hs.models.SequenceModel, "forward", watched)
    model = lm(hidden=2)
    for steps in (20_000, 100_000):
        text = torch.zeros(steps, dtype=torch.uint8)
        hs.evaluate(model, text, stateful=True)
        hs.predict(model, text, stateful=True)
    assert max(sizes) == 4096


def test_an_update_of_ones_own_loop_starts_from_a_state_and_reports_one():
    model = lm()
    rule = hs.rules.make("hbll")
    rule.setup(model, torch.Generator())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = TEXT[:40].view(2, 20)
    batch = hs.Batch(x, torch.tensor([20, 20]), x, None, [torch.full((2, 8), 0.5)])
    info = hs.step(model, batch, rule, optimizer)
    with torch.no_grad():
        assert info.result.state[0].shape == (2, 8) and info.updated
    assert hs.step(model, batch._replace(state=None), rule, optimizer).result.state is None
    with pytest.raises(hs.InputError, match=r"state\[0\]: got shape \(2, 7\)"):
        hs.step(model, batch._replace(state=[torch.zeros(2, 7)]), rule, optimizer)
    with pytest.raises(hs.InputError, match="batch.state: got a start state, with rule 'hbll-v1'"):
        hs.step(model, batch, hs.rules.make("hbll-v1"), optimizer)


class Forgets(hs.Rule):
    """A rule that does not know of states."""

    name = "forgets"

    def step(self, model, batch, progress):
        loss, _ = hs.rules.forward_backward(model, batch, hs.rules.sequential)
        return StepResult(loss, {})


class Promises(Forgets):
    name, carries_state = "promises", True


WRONG = {
    "a DataLoader": (classifier, (loader(),), {}, "stateful: got True for a model with one target per sequence"),
    "a loader of steps": (tagger, (loader(),), {}, "x: got a DataLoader, with stateful=True"),
    "unequal lengths": (lm, ([TEXT[:50], TEXT[50:80]],), {}, r"x\[1\]: got shape \(30,\)"),
    "a long window": (lm, (TEXT,), dict(window=134), "window: got 134; expected at most 133, the steps of each of 3"),
    "many streams": (lm, (TEXT,), dict(batch_size=400, window=None), "batch_size: got 400; expected at most 399"),
    "no switch": (lm, (TEXT,), dict(stateful="yes"), "stateful: got 'yes'"),
    "no rule for it": (lm, (TEXT,), dict(rule=Forgets()), "stateful: got True with rule 'forgets', which starts every"),
    "an old rule": (lm, (TEXT,), dict(rule="hbll-v1"), "stateful: got True with rule 'hbll-v1'"),
    "both ways": (lambda: tagger(bidirectional=True), (X, Y), {}, "stateful: got True for a bidirectional model"),
    "a loss beside it": (lm, (TEXT,), dict(loss="cross_entropy"), "stateful: got True beside loss=, met"),
    "metrics beside it": (lm, (TEXT,), dict(metrics={"m": lambda out, y: 0.0}), "stateful: got True beside loss=, met"),
    "bad validation": (lm, (TEXT,), dict(validation=loader()), "validation: x: got a DataLoader"),
    "short validation": (lm, (TEXT,), dict(validation=TEXT[:1]), "validation: x: got 1 step"),
}


@pytest.mark.parametrize("make,data,options,says", WRONG.values(), ids=list(WRONG))
def test_what_cannot_be_carried_is_refused_before_work_starts(make, data, options, says):
    model = make()
    before = weights(model)
    with pytest.raises(hs.InputError, match=says):
        hs.fit(model, *data, **QUICK | dict(rule="bptt", steps=3) | options)
    assert torch.equal(weights(model), before)


def test_models_without_a_state_are_refused():
    with pytest.raises(hs.InputError, match="stateful: got True for a GPT, which has no state"):
        hs.fit(hs.models.GPT(5, hidden=8, heads=2, layers=2, context=16), TEXT, stateful=True)
    model = hs.models.MLP(4, 3)
    for call in (
        lambda: hs.fit(model, torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), stateful=True),
        lambda: hs.evaluate(model, torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), stateful=True),
        lambda: hs.predict(model, torch.zeros(8, 4), stateful=True),
    ):
        with pytest.raises(hs.InputError, match="stateful: got True for a MLP, which has no state"):
            call()
    with pytest.raises(hs.InputError, match="window: got 5; expected None, or stateful=True"):
        hs.predict(lm(), TEXT[None], window=5)
    own = torch.nn.GRU(3, 4, batch_first=True)
    with pytest.raises(hs.InputError, match="stateful: got True for a GRU, a module of your own"):
        hs.predict(own, torch.zeros(2, 8, 3), stateful=True)
    with pytest.raises(hs.InputError, match="window: got 5; expected None: a module of your own"):
        hs.predict(own, torch.zeros(2, 8, 3), window=5)


def test_a_rule_that_promises_a_state_and_reports_none_is_named():
    with pytest.raises(hs.InputError, match="rule: got a StepResult without state"):
        hs.fit(lm(), TEXT, rule=Promises(), steps=3, **QUICK)


@pytest.mark.parametrize("rule", RULES)
def test_every_recurrent_model_is_trained(rule):
    wave = hs.models.WaveModel(8000, levels=16, hidden=6)
    codes = wave.prepare(torch.sin(torch.arange(400) / 5)).to(torch.uint8).numpy()
    tags = hs.models.AudioTagger(3, hs.audio.Frames(4), hidden=6)
    frames, _ = tags.prepare([torch.sin(torch.arange(1200) / 5)])
    runs = [hs.fit(tags, frames[0], Y, rule=rule, steps=5, **QUICK)]
    runs += [hs.fit(wave, codes, rule=rule, steps=5, **QUICK)]
    own = hs.models.SequenceModel(2, 2, input_kind="features", task="next", objective="mse", hidden=6, cell="lstm")
    runs.append(hs.fit(own, X.numpy().astype(np.float16), rule=rule, steps=5, **QUICK))
    assert all(len(run.history["loss"]) == 5 for run in runs)
