"""Models come back from a file, and a run that was stopped goes on as if it had not been."""

import json
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs
from hbll_seq import checkpoint as ckpt

TEXT = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))
QUICK = dict(steps=6, batch_size=3, window=40, progress=False)


def lm(**options):
    return hs.models.CharLM(5, **{"hidden": 8, "timescale": 20.0} | options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


RULES = ["hbll", "bptt", "tbptt", "dsf"]


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


@pytest.mark.parametrize(
    "options,make,says",
    [
        (dict(optimizer="sgd"), lm, "checkpoint: got a run of optimizer 'adam'; expected 'sgd'"),
        (dict(rule="tbptt"), lm, "checkpoint: got a run of rule 'bptt'"),
        ({}, lambda: lm(hidden=9), "checkpoint: got weights or state of another model"),
        ({}, lambda: lm(layers=2), "checkpoint: got weights or state of another model"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_and_changes_nothing(options, make, says, tmp_path):
    hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", **QUICK)
    model = make()
    before = weights(model)
    with pytest.raises(hs.InputError, match=says):
        hs.fit(model, TEXT, **dict(rule="bptt", checkpoint=tmp_path / "c", resume=True) | QUICK | options)
    assert torch.equal(weights(model), before)


def test_a_full_disk_keeps_the_last_checkpoint_and_goes_on(tmp_path, monkeypatch):
    file, written = tmp_path / "run.safetensors", []
    replace = ckpt.os.replace

    def sometimes(a, b):
        written.append(1)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        replace(a, b)

    monkeypatch.setattr(ckpt.os, "replace", sometimes)
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

        monkeypatch.setattr(ckpt.os, "fsync", fails)
        with pytest.raises(type(error)):
            ckpt.write(file, {"a": torch.zeros(2)}, {"n": 2})
        assert ckpt.read(file)[1] == {"n": 1} and [p.name for p in tmp_path.iterdir()] == ["f"]


class NotJSON(hs.Rule):
    name = "not json"

    def step(self, model, batch, progress):
        return hs.rules.make("bptt").step(model, batch, progress)

    def state_dict(self):
        return {"what": object()}


def test_a_state_that_cannot_be_written_does_not_end_the_run(tmp_path):
    with pytest.warns(UserWarning, match="not written.*object"):
        run = hs.fit(lm(), TEXT, rule=NotJSON(), checkpoint=tmp_path / "c", **QUICK)
    assert run.stopped_reason == "finished" and not list(tmp_path.iterdir())


def test_nested_state_comes_back_exactly(tmp_path):
    state = {"a": {3: torch.tensor([1.5, math.nan]), "b": [1, None, (True, torch.arange(3))]}, "c": 0.1, "d": math.inf}
    tensors, tree = ckpt.split_state(state, "s")
    ckpt.write(tmp_path / "f", tensors, {"tree": tree})
    tensors, facts = ckpt.read(tmp_path / "f")
    back = ckpt.join_state(tensors, facts["tree"])
    assert torch.equal(back["a"][3].view(torch.int32), state["a"][3].view(torch.int32))  # NaN too
    assert back["a"]["b"][:2] == [1, None] and back["a"]["b"][2][1].tolist() == [0, 1, 2]
    assert back["c"] == 0.1 and back["d"] == math.inf


def test_files_hold_no_pickle(tmp_path):
    hs.save(lm(), tmp_path / "m")
    hs.fit(lm(), TEXT, rule="hbll", checkpoint=tmp_path / "c", **QUICK)
    for name in ("m", "c"):
        data = (tmp_path / name).read_bytes()
        size = int.from_bytes(data[:8], "little")  # safetensors: length of a JSON header, the header, numbers
        header = json.loads(data[8 : 8 + size])
        assert set(header["__metadata__"]) == {"format", "facts"} and b"torch._utils" not in data
        # a header may hold 100 MB, and a long run's history is longer
        assert "loss" not in header["__metadata__"]["facts"]


def test_saved_models_come_back(tmp_path):
    model = lm(symbols=list("abcde"), cell="lstm", layers=2)
    hs.save(model, tmp_path / "m.safetensors")
    again = hs.load(tmp_path / "m.safetensors")
    assert isinstance(again, hs.models.CharLM) and again.generate("ab", 9) == model.generate("ab", 9)
    own = hs.models.SequenceModel(5, 5, cell=torch.nn.GRU(4, 4, batch_first=True))
    with pytest.raises(hs.InputError, match="model: got a model around a module of your own"):
        hs.save(own, tmp_path / "n.safetensors")
    (tmp_path / "x").write_bytes(b"not a model")
    for path, says in [("x", "not safetensors"), ("y", "does not exist")]:
        with pytest.raises(hs.InputError, match=says):
            hs.load(tmp_path / path)
