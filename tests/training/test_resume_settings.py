"""`resume=True` goes on only with the settings that decide the result; `resume="changed"` applies and records others."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs
from hbll_seq.data.fingerprint import fingerprint
from hbll_seq.data.inputs import as_source

G = torch.Generator().manual_seed(1)
TEXT = torch.randint(0, 5, (400,), generator=G)
X, Y = torch.randn(9, 12, 3, generator=G), torch.randint(0, 3, (9,), generator=G)


def lm(**options):
    return hs.models.CharLM(5, **{"hidden": 8, "timescale": 20.0} | options)


def listener(**options):
    return hs.models.SequenceModel(3, 3, **{"input_kind": "features", "task": "sequence", "hidden": 4} | options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Stop:
    def __init__(self, at):
        self.at = at

    def on_step_end(self, run, step):
        return step == self.at


BASE = dict(rule="hbll", steps=8, batch_size=3, window=40, validation=0.2, progress=False, checkpoint_every=5)


def stopped(file, make=lm, data=(TEXT,), **options):
    return hs.fit(make(), *data, checkpoint=file, callbacks=[Stop(5)], **BASE | options)


def other_betas(parameters, lr, weight_decay=0.0):
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.5, 0.9))


def usual_betas(parameters, lr, weight_decay=0.0):
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)


other_betas.__qualname__ = usual_betas.__qualname__ = "factory"  # the name says nothing then

DIFFERENT = [
    ({}, dict(steps=9), "steps was 8, now 9"),
    ({}, dict(batch_size=4), "batch_size was 3, now 4"),
    ({}, dict(seed=1), "seed was 0, now 1"),
    ({}, dict(lr=0.1), "lr was 0.004, now 0.1"),
    ({}, dict(weight_decay=0.5), "weight_decay was 0.0, now 0.5"),
    ({}, dict(clip=None), "clip was 1.0, now None"),
    ({}, dict(window=30), "window was 40, now 30"),
    ({}, dict(schedule="cosine"), "schedule was 'linear', now 'cosine'"),
    (dict(schedule=lambda i: 1.0), dict(schedule=lambda i: 0.5), r"values of the schedule \[0\] was 1.0, now 0.5"),
    ({}, dict(warmup=2), "warmup was 0, now 2"),
    ({}, dict(optimizer="sgd"), "optimizer was 'adam', now 'sgd'"),
    (dict(optimizer=usual_betas), dict(optimizer=other_betas), "betas was .0.9, 0.999., now .0.5, 0.9."),
    ({}, dict(rule="tbptt"), "rule was 'hbll', now 'tbptt'"),
    ({}, dict(sweeps=3), "rule options: sweeps was 'auto', now 3"),
    (dict(tolerance=1e-3), {}, "rule options: tolerance was 0.001, now 0.0003"),
    ({}, dict(validation=0.1), "data was 'a text of 320 symbols, .*', now 'a text of 360 symbols"),
    ({}, dict(validate_every=2), "validate_every was 1, now 2"),
]


@pytest.mark.parametrize("first,then,says", DIFFERENT, ids=[says for *_, says in DIFFERENT])
def test_every_setting_that_decides_is_compared(first, then, says, tmp_path):
    stopped(tmp_path / "c", **first)
    model = lm(seed=7)
    before = weights(model)
    options = BASE | first | then
    if not then:
        options = dict(BASE)
    with pytest.raises(hs.InputError, match=says) as caught:
        hs.fit(model, TEXT, checkpoint=tmp_path / "c", resume=True, **options)
    assert caught.value.argument == "resume" and "expected the same settings" in str(caught.value)
    assert torch.equal(weights(model), before)
    run = hs.fit(model, TEXT, checkpoint=tmp_path / "c", resume="changed", **options)
    assert len(run.history["loss"]) == options["steps"] and run.changes[0]["step"] == 5
    assert set(run.changes[0]["changed"]) <= {*then, *first, "data", "validation data", "values of the schedule",
                                              "rule options", "settings of the optimizer", "state of the optimizer"}  # fmt: skip
    assert hs.History.from_json(run.to_json()).changes == run.changes == json.loads(json.dumps(run.changes))


def test_what_decides_nothing_is_free(tmp_path):
    stopped(tmp_path / "c")
    whole, again = lm(), lm(seed=5)
    hs.fit(whole, TEXT, **BASE)
    free = dict(record_every=1, measure_cosine=3, checkpoint_every=1, sweeps="auto", callbacks=[Stop(99)])
    run = hs.fit(again, TEXT.to(torch.uint8), checkpoint=tmp_path / "c", resume=True, **BASE | free)
    assert torch.equal(weights(whole), weights(again)) and run.changes == []


def test_a_longer_run_is_asked_for_in_so_many_words(tmp_path):
    stopped(tmp_path / "c")
    with pytest.raises(hs.InputError, match='resume="changed" .* to train on to step 12; learning rates and discount'):
        hs.fit(lm(), TEXT, checkpoint=tmp_path / "c", resume=True, **BASE | dict(steps=12))
    run = hs.fit(lm(), TEXT, checkpoint=tmp_path / "c", resume="changed", **BASE | dict(steps=12))
    assert len(run.history["step"]) == 12 and run.changes == [{"step": 5, "changed": {"steps": [8, 12]}}]
    assert run.history["lr"][4:6] == pytest.approx([4e-3 * (1 - 4 / 8), 4e-3 * (1 - 5 / 12)])
    # the changed run is a run of its own: it goes on without the word
    again = hs.fit(lm(), TEXT, checkpoint=tmp_path / "c", resume=True, **BASE | dict(steps=12))
    assert again.changes == run.changes


def used(**options):
    """Settings that an optimiser had while it trained."""
    made = []

    def factory(parameters, lr, weight_decay=0.0):
        made.append(torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=options["betas"]))
        return made[0]

    factory.__qualname__ = "factory"
    run = hs.fit(lm(), TEXT, optimizer=factory, **BASE | {k: v for k, v in options.items() if k != "betas"})
    return run, made[0].param_groups[0]


def test_new_settings_of_the_optimizer_are_those_that_are_used(tmp_path):
    kept = dict(checkpoint=tmp_path / "c")
    used(betas=(0.9, 0.99), weight_decay=0.1, callbacks=[Stop(5)], **kept)
    run, group = used(betas=(0.8, 0.99), weight_decay=0.5, resume="changed", **kept)
    assert group["weight_decay"] == 0.5 == run.config["weight_decay"] and group["betas"] == (0.8, 0.99)
    changed = run.changes[0]["changed"]
    assert changed["weight_decay"] == [0.1, 0.5] and changed["settings of the optimizer"][1][0]["betas"] == [0.8, 0.99]
    run, group = used(betas=(0.8, 0.99), weight_decay=0.5, resume=True, **kept)
    assert group["weight_decay"] == 0.5 and group["betas"] == (0.8, 0.99)


@pytest.mark.parametrize("change", [dict(rule="bptt"), dict(optimizer="sgd"), dict(rule="hbll-v1", sweeps=1)])
def test_another_rule_or_optimizer_starts_on_the_weights_that_were_reached(change, tmp_path):
    stopped(tmp_path / "c")
    model = lm(seed=9)
    options = BASE | change | dict(steps=5 if change.get("rule") == "hbll-v1" else 8)
    run = hs.fit(model, TEXT, checkpoint=tmp_path / "c", resume="changed", **options)
    reached = lm()
    hs.fit(reached, TEXT, callbacks=[Stop(5)], **BASE)
    if options["steps"] == 5:
        assert torch.equal(weights(model), weights(reached))
    changed = run.changes[0]["changed"]
    assert ("state of the optimizer" in changed) == ("optimizer" in change or change.get("rule") == "hbll-v1")
    assert run.history["loss"][:5] == hs.fit(lm(), TEXT, **BASE).history["loss"][:5]


def test_another_machine_is_noted_not_refused(tmp_path, monkeypatch):
    stopped(tmp_path / "c")
    import hbll_seq.training.loop as module

    monkeypatch.setattr(module, "versions", lambda: {"torch": "9.9", "threads": 77})
    run = hs.fit(lm(), TEXT, checkpoint=tmp_path / "c", resume=True, **BASE)
    assert {k: v[1] for k, v in run.changes[0]["changed"].items()} == {"torch": "9.9", "threads": 77}


def test_resume_takes_three_words(tmp_path):
    for word in ("yes", 1, None):
        with pytest.raises(hs.InputError, match='resume: got .*; expected True, False or "changed"'):
            hs.fit(lm(), TEXT, checkpoint=tmp_path / "c", resume=word, **BASE)
    with pytest.raises(hs.InputError, match="resume: got 'changed' without a checkpoint"):
        hs.fit(lm(), TEXT, resume="changed", **BASE)


def of(x, y=None, model=None, **options):
    return fingerprint(as_source(x, y, model or listener(), **options))


def test_fingerprints_tell_data_apart_and_know_the_same_again():
    one = of(X, Y)
    assert one == of(X.clone(), Y.numpy()) == of(list(X), Y) and one.startswith("9 x 12 x 3 float32, 108 steps in all")
    smaller, moved, relabelled = X[:8], X.flip(0), Y.clone()
    relabelled[4] = (Y[4] + 1) % 3
    touched = X.clone()
    touched[3, 7, 2] += 1e-6
    others = [of(smaller, Y[:8]), of(moved, Y), of(X, relabelled), of(touched, Y), of(2 * X, Y), of((X, [11] * 9), Y)]
    assert len({one, *others}) == 7
    padded = X.clone()
    padded[:, 11] = 5.0  # after the end of every sequence
    assert of((X, [11] * 9), Y) == of((padded, [11] * 9), Y)


def test_fingerprints_of_targets_see_those_that_count():
    model = listener(task="step")
    y = torch.randint(0, 3, (9, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(9, 12, dtype=torch.bool)
    mask[:, :3] = False
    other = y.clone()
    other[:, :3] = (y[:, :3] + 1) % 3
    assert of(X, y, model, mask=mask) == of(X, other, model, mask=mask)
    assert len({of(X, y, model), of(X, other, model), of(X, y, model, mask=mask)}) == 3


def test_fingerprints_of_arrays_and_of_values():
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    mlp = hs.models.MLP((1, 8, 8), 3, hidden=4, layers=2)
    assert of(images, Y[:6], mlp) == of(images.clone(), Y[:6], mlp) != of(images + 1, Y[:6], mlp)
    options = dict(input_kind="features", task="step", objective="mse", hidden=4)
    regression = hs.models.SequenceModel(3, 2, **options)
    y = torch.randn(9, 12, 2, generator=torch.Generator().manual_seed(4))
    assert of(X, y, regression) == of(X, y.clone(), regression) != of(X, y + 1, regression)


def test_fingerprints_of_texts_and_loaders():
    assert of(TEXT, None, lm()) == of(TEXT.to(torch.uint8), None, lm()) != of(TEXT.flip(0), None, lm())
    assert of(DataLoader(TensorDataset(X, Y)), None, listener()) is None
    long = torch.zeros(300_000, dtype=torch.uint8)
    longer = torch.zeros(300_001, dtype=torch.uint8)
    assert of(long, None, lm()) != of(longer, None, lm())


def test_a_loader_is_not_compared_but_its_kind_is(tmp_path):
    loader = lambda: DataLoader(TensorDataset(X, Y), batch_size=3)
    options = dict(make=listener, rule="bptt", validation=None)
    stopped(tmp_path / "c", data=(loader(),), **options)
    plain = BASE | dict(rule="bptt", validation=None)
    hs.fit(listener(), loader(), checkpoint=tmp_path / "c", resume=True, **plain)
    with pytest.raises(hs.InputError, match="data was None, now '9 x 12 x 3 float32"):
        hs.fit(listener(), X, Y, checkpoint=tmp_path / "c", resume=True, **plain)
