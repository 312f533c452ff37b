"""Models come back from a file, and a run that was stopped goes on as if it had not been."""

import os

import pytest
import torch
from runs import QUICK, RULES, TEXT, lm, weights
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs
from hbll_seq import checkpoint as ckpt


class Stop:
    def __init__(self, at):
        self.at = at

    def on_step_end(self, run, step):
        return step == self.at


@pytest.mark.parametrize(
    "rule,options",
    [*((r, {}) for r in RULES), ("hbll", {"execution": "parallel"}), ("hbll", {"precision": "bf16"}), ("hbll-v1", {})],
)
def test_stopped_and_resumed_equals_never_stopped(rule, options, tmp_path):
    whole, parts, file = (
        lm(layers=1 if rule == "hbll-v1" else 2),
        lm(layers=1 if rule == "hbll-v1" else 2),
        tmp_path / "run.safetensors",
    )
    options = options | QUICK | dict(rule=rule, steps=8, optimizer="adamw", warmup=2, validation=0.1, validate_every=3)
    run = hs.fit(whole, TEXT, **options)
    stop = type("Stop", (), {"on_step_end": lambda self, run, step: step == 5})()
    half = hs.fit(parts, TEXT, checkpoint=file, checkpoint_every=5, callbacks=[stop], **options)
    assert half.stopped_reason == "callback" and len(half.history["loss"]) == 5
    fresh = lm(layers=1 if rule == "hbll-v1" else 2)
    again = hs.fit(fresh, TEXT, checkpoint=file, checkpoint_every=5, resume=True, **options)
    assert torch.equal(weights(whole), weights(fresh))
    for key in ("step", "loss", "lr", "val_loss", "val_step"):
        assert run.history[key] == again.history[key]


def three_ways(make, x, y, file, *, stop=5, total=9, callbacks=list, **options):
    """Weights and histories of a run in one go, and of one that is stopped and resumed by new objects."""
    options = dict(rule="bptt", steps=total, batch_size=3, progress=False) | options
    whole, half, again = make(), make(), make()
    one = hs.fit(whole, x(), y, callbacks=callbacks(), **options)
    kept = dict(checkpoint=file, checkpoint_every=stop)
    hs.fit(half, x(), y, callbacks=[*callbacks(), Stop(stop)], **kept, **options)
    two = hs.fit(again, x(), y, callbacks=callbacks(), resume=True, **kept, **options)
    assert torch.equal(weights(whole), weights(again)) and not torch.equal(weights(half), weights(again))
    return one, two


def test_resuming_in_the_middle_of_an_epoch(tmp_path):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 6, 2, generator=g), torch.randint(0, 3, (8,), generator=g)
    make = lambda: hs.models.SequenceModel(2, 3, input_kind="features", task="sequence", hidden=4)
    # 8 sequences by 3: step 5 is the second of three batches of its epoch
    one, two = three_ways(make, lambda: x, y, tmp_path / "memory")
    assert one.history["loss"] == two.history["loss"]
    shuffling = lambda: DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True)
    one, two = three_ways(make, shuffling, None, tmp_path / "loader")
    assert one.history["loss"] == two.history["loss"]


class Scripted:
    """Validation losses as written."""

    def on_validation(self, run, step):
        run.history["val_loss"][-1] = [3.0, 1.0, 2.0, 2.5, 2.6, 2.7, 2.8][step - 1]


def test_early_stopping_remembers_its_best_weights_over_a_stop(tmp_path):
    callbacks = lambda: [Scripted(), hs.callbacks.EarlyStopping(patience=3)]
    options = dict(rule="bptt", validation=0.2, validate_every=1, checkpoint_every=3) | QUICK | dict(steps=7)
    whole, again = lm(), lm()
    one = hs.fit(whole, TEXT, callbacks=callbacks(), **options)
    hs.fit(lm(), TEXT, callbacks=[*callbacks(), Stop(3)], checkpoint=tmp_path / "c", **options)
    two = hs.fit(again, TEXT, callbacks=callbacks(), checkpoint=tmp_path / "c", resume=True, **options)
    assert one.stopped_reason == two.stopped_reason == "early_stopping"
    assert one.history["val_step"] == two.history["val_step"] == [1, 2, 3, 4, 5]
    assert torch.equal(weights(whole), weights(again))  # those of step 2, before the stop


def test_resuming_a_finished_run_changes_nothing_and_a_missing_file_starts_anew(tmp_path):
    first, again = lm(), lm()
    options = dict(rule="bptt", checkpoint=tmp_path / "c", resume=True) | QUICK
    hs.fit(first, TEXT, **options)
    run = hs.fit(again, TEXT, **options)
    assert torch.equal(weights(first), weights(again)) and len(run.history["loss"]) == 6


@pytest.mark.parametrize("make", [lambda: lm(hidden=9), lambda: lm(layers=2), lambda: lm().double()])
def test_a_checkpoint_of_another_model_is_named_and_changes_nothing(make, tmp_path):
    hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", **QUICK)
    model = make()
    before = weights(model)
    with pytest.raises(hs.InputError, match="weights or state of another model|dtype was"):
        hs.fit(model, TEXT, rule="bptt", checkpoint=tmp_path / "c", resume=True, **QUICK)
    with pytest.raises(hs.InputError, match="checkpoint: got weights or state of another model in '.*c'"):
        hs.fit(model, TEXT, rule="bptt", checkpoint=tmp_path / "c", resume="changed", **QUICK)
    assert torch.equal(weights(model), before)


def test_a_full_disk_keeps_the_last_checkpoint_and_goes_on(tmp_path, monkeypatch):
    file, written = tmp_path / "run.safetensors", []
    replace = os.replace

    def sometimes(a, b):
        written.append(1)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        replace(a, b)

    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.warns(UserWarning, match="not written.*No space left") as said:
        run = hs.fit(lm(), TEXT, rule="bptt", checkpoint=file, checkpoint_every=2, **QUICK)
    assert {one.filename for one in said} == {__file__}  # it points to the user's call
    assert run.stopped_reason == "finished" and len(run.history["loss"]) == 6
    assert ckpt.read(file)[1]["step"] == 2 and [p.name for p in tmp_path.iterdir()] == [file.name]


def test_an_interrupted_write_leaves_the_last_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "f"
    ckpt.write(file, {"a": torch.ones(2)}, {"n": 1})
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(type(error)):
            ckpt.write(file, {"a": torch.zeros(2)}, {"n": 2})
        assert ckpt.read(file)[1] == {"n": 1} and [p.name for p in tmp_path.iterdir()] == ["f"]
