"""Files of models and runs: what they hold, who may write them, and what is said of those that cannot be used."""

import json
import math
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors
import torch
from runs import QUICK, TEXT, lm, weights
from safetensors.torch import load_file, save_file

import hbll_seq as hs
from hbll_seq import checkpoint as ckpt
from hbll_seq.checkpoint import lock


def header(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")  # safetensors: length of a JSON header, the header, numbers
    return json.loads(data[8 : 8 + size])


def test_files_hold_no_pickle(tmp_path):
    hs.save(lm(), tmp_path / "m")
    hs.fit(lm(), TEXT, rule="hbll", checkpoint=tmp_path / "c", **QUICK)
    for name in ("m", "c"):
        meta = header(tmp_path / name)["__metadata__"]
        assert set(meta) == {"format", "sha256", "facts"} and meta["format"] == "hbll_seq-2"
        assert b"torch._utils" not in (tmp_path / name).read_bytes()
        # a header may hold 100 MB, and a long run's history is longer
        assert "loss" not in json.dumps(json.loads(meta["facts"])["tree"] if name == "c" else {})


def test_files_are_safetensors_of_their_own_right(tmp_path):
    model = lm()
    hs.save(model, tmp_path / "m")
    found = load_file(tmp_path / "m")
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in model.state_dict().items()}
    with safetensors.safe_open(os.fspath(tmp_path / "m"), "pt") as file:
        assert file.metadata()["format"] == "hbll_seq-2"


def test_saved_models_come_back(tmp_path):
    model = lm(symbols=list("abcde"), cell="lstm", layers=2)
    hs.save(model, tmp_path / "m.safetensors")
    again = hs.load(tmp_path / "m.safetensors")
    assert isinstance(again, hs.models.CharLM) and again.generate("ab", 9) == model.generate("ab", 9)
    double = lm().double()
    hs.save(double, tmp_path / "d")
    assert torch.equal(weights(hs.load(tmp_path / "d")), weights(double))


def test_what_cannot_come_back_is_not_saved(tmp_path):
    mixed = lm()
    mixed.readout.double()
    with pytest.raises(hs.InputError, match="model: got tensors of torch.float32, torch.float64"):
        hs.save(mixed, tmp_path / "n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["model", "run"])
def test_files_of_the_older_format_are_read_without_a_checksum(kind, tmp_path):
    model, file = lm(), tmp_path / "f"
    if kind == "model":
        hs.save(model, file)
    else:
        hs.fit(model, TEXT, rule="bptt", checkpoint=file, **QUICK)
    tensors, facts = ckpt.read(file)
    if kind == "run":  # what older versions wrote
        del facts["settings"], facts["callbacks"]
        facts["rule"] = "bptt"
    save_file(tensors, file, {"format": "hbll_seq-1", "facts": json.dumps(facts)})
    again = lm(seed=3)
    if kind == "model":
        again = hs.load(file)
    else:
        run = hs.fit(again, TEXT, rule="bptt", checkpoint=file, resume=True, **QUICK)
        assert len(run.history["loss"]) == 6
        with pytest.raises(hs.InputError, match="lr was 0.004, now 0.1 .an older version wrote it: data, dtype"):
            options = dict(rule="bptt", checkpoint=file, resume=True, lr=0.1) | QUICK
            save_file(tensors, file, {"format": "hbll_seq-1", "facts": json.dumps(facts)})
            hs.fit(again, TEXT, **options)
    assert torch.equal(weights(again), weights(model))


def test_a_file_of_the_other_kind_gets_the_sentence_that_helps(tmp_path):
    hs.save(lm(), tmp_path / "m")
    hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", **QUICK)
    with pytest.raises(hs.InputError, match="c', which is a training checkpoint; .*resume=True"):
        hs.load(tmp_path / "c")
    with pytest.raises(hs.InputError, match="checkpoint: got '.*m', which is a saved model; .*hs.load"):
        hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "m", resume=True, **QUICK)
    assert torch.equal(weights(hs.load(tmp_path / "m")), weights(lm()))  # and it is still there


def test_what_is_no_file_of_ours_is_said(tmp_path):
    (tmp_path / "x").write_bytes(b"not a model")
    (tmp_path / "empty").write_bytes(b"")
    save_file({"a": torch.ones(2)}, tmp_path / "theirs", {"format": "pt"})
    (tmp_path / "deep").write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)
    for path, says in [
        ("x", "x', which is not safetensors"), ("y", "y', which does not exist"), ("empty", "cut off"),
        ("theirs", "of format 'pt'"), (".", "which is no file"), ("deep", "which is not safetensors"),
    ]:  # fmt: skip
        with pytest.raises(hs.InputError, match=says):
            hs.load(tmp_path / path)
    with pytest.raises(hs.InputError, match="path: got int"):
        hs.load(3)


def test_nested_state_comes_back_exactly(tmp_path):
    state = {
        "a": {3: torch.tensor([1.5, math.nan]), "b": [1, None, (True, torch.arange(3))], "3": torch.ones(1)},
        "a.3": torch.zeros(2), "c": 0.1, "d": math.inf, None: np.arange(4.0).reshape(2, 2), "e": np.float32(0.1),
        "f": {}, "g": (), 1.5: "x",
    }  # fmt: skip
    tensors, tree = ckpt.split_state(state, "s")
    ckpt.write(tmp_path / "f", tensors, {"tree": tree})
    tensors, facts = ckpt.read(tmp_path / "f")
    back = ckpt.join_state(tensors, facts["tree"])
    assert list(back) == list(state)
    assert torch.equal(back["a"][3].view(torch.int32), state["a"][3].view(torch.int32))  # NaN too
    assert back["a"]["3"].tolist() == [1] and back["a.3"].tolist() == [0, 0]  # names that look alike
    assert back["a"]["b"][:2] == [1, None] and back["a"]["b"][2][1].tolist() == [0, 1, 2]
    assert isinstance(back["a"]["b"][2], tuple) and back["g"] == () and back["f"] == {} and back[1.5] == "x"
    assert back["c"] == 0.1 and back["d"] == math.inf and back["e"] == float(np.float32(0.1))
    assert isinstance(back[None], np.ndarray) and back[None].tolist() == [[0, 1], [2, 3]]


class Point(tuple):
    """Would come back as a tuple."""


LOST = [object(), {1, 2}, {(1, 2): 3}, Point((1, 2)), 1j, b"x", torch.ones(2).to_sparse(), np.array(["a"]), len]


@pytest.mark.parametrize("value", LOST, ids=[type(v).__name__ for v in LOST])
def test_what_would_not_come_back_is_refused_when_it_is_written(value):
    with pytest.raises(TypeError, match=r"s\.a\.1 is .*could not give back"):
        ckpt.split_state({"a": [0, value]}, "s")
    ring = []
    ring.append(ring)
    with pytest.raises(TypeError, match="nested without end"):
        ckpt.split_state(ring, "s")


class Keeping:
    """A callback whose state is what it is given."""

    def __init__(self, *states):
        self.states, self.got = list(states), None

    def on_step_end(self, run, step):
        if len(self.states) > 1:
            self.states.pop(0)

    def state_dict(self):
        return {"what": self.states[0]}

    def load_state_dict(self, state):
        self.got = state["what"]


class Forgetful:
    def on_step_end(self, run, step):
        pass

    def state_dict(self):
        return {}


class Odd(hs.Rule):
    name = "odd"

    def step(self, model, batch, progress):
        return hs.rules.make("bptt").step(model, batch)

    def state_dict(self):
        return {"what": object()}


@pytest.mark.parametrize(
    "options,says",
    [
        (
            dict(callbacks=[Keeping({1, 2})]),
            "callbacks: got a state of Keeping that cannot be kept .Keeping.what is a set",
        ),
        (dict(callbacks=[Forgetful()]), "callbacks: got Forgetful with state_dict and no load_state_dict"),
        (dict(rule=Odd()), "rule: got a state of Odd that cannot be kept .Odd.what is a object"),
    ],
)
def test_a_state_that_could_not_be_restored_is_refused_before_the_first_step(options, says, tmp_path):
    model = lm()
    before = weights(model)
    with pytest.raises(hs.InputError, match=says):
        hs.fit(model, TEXT, checkpoint=tmp_path / "c", **{"rule": "bptt"} | QUICK | options)
    assert torch.equal(weights(model), before) and not list(tmp_path.iterdir())
    assert hs.fit(model, TEXT, **{"rule": "bptt"} | QUICK | options).stopped_reason == "finished"  # nothing to keep


def test_a_state_that_becomes_unwritable_costs_the_run_nothing(tmp_path):
    """The last good file stays."""
    with pytest.warns(UserWarning, match="not written .*what is a set.*the last one stays"):
        run = hs.fit(
            lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", checkpoint_every=2, callbacks=[Keeping(0, 1, 2, {3})],
            **QUICK,
        )  # fmt: skip
    assert run.stopped_reason == "finished" and ckpt.read(tmp_path / "c")[1]["step"] == 2


def test_callbacks_find_their_state_by_class_wherever_they_stand(tmp_path):
    class Other(Keeping):
        pass

    options = dict(rule="bptt", checkpoint=tmp_path / "c") | QUICK
    hs.fit(lm(), TEXT, callbacks=[Keeping("first"), Other("other"), Keeping("second")], **options)
    first, second, other = Keeping(""), Keeping(""), Other("")
    hs.fit(lm(), TEXT, callbacks=[other, first, second], resume=True, **options)
    assert (first.got, second.got, other.got) == ("first", "second", "other")


def test_a_state_that_a_callback_does_not_take_is_said(tmp_path):
    class Changed(Keeping):
        def load_state_dict(self, state):
            self.got = state["a name of today"]

    options = dict(rule="bptt", checkpoint=tmp_path / "c") | QUICK
    hs.fit(lm(), TEXT, callbacks=[Changed(1)], **options)
    model = lm(seed=4)
    before = weights(model)
    with pytest.raises(hs.InputError, match="checkpoint: got a state of Changed that it does not take .KeyError"):
        hs.fit(model, TEXT, callbacks=[Changed(1)], resume=True, **options)
    assert torch.equal(weights(model), before)


WRITER = """
import sys, time, torch
from hbll_seq.checkpoint import WriterLock
lock = WriterLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def test_two_writers_are_refused_and_a_killed_one_is_not_waited_for(tmp_path):
    file = tmp_path / "c"
    options = dict(rule="bptt", checkpoint=file) | QUICK
    other = subprocess.Popen([sys.executable, "-c", WRITER, file], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(hs.InputError, match=f"c', which another run .process {other.pid} on .* is writing"):
            hs.fit(lm(), TEXT, **options)
    finally:
        other.kill()
        other.wait(30)
        other.stdout.close()
    assert hs.fit(lm(), TEXT, **options).stopped_reason == "finished"
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_the_lock_is_let_go_however_a_run_ends(tmp_path):
    options = dict(rule="bptt", checkpoint=tmp_path / "c") | QUICK

    class Fails:
        def on_step_end(self, run, step):
            raise OSError("mine")

    class Interrupts:
        def on_step_end(self, run, step):
            raise KeyboardInterrupt

    with pytest.raises(OSError, match="mine"):
        hs.fit(lm(), TEXT, callbacks=[Fails()], **options)
    assert hs.fit(lm(), TEXT, callbacks=[Interrupts()], **options).stopped_reason == "interrupted"
    hs.fit(lm(), TEXT, **options)
    with pytest.raises(hs.InputError):
        hs.fit(lm(hidden=9), TEXT, resume=True, **options)
    assert hs.fit(lm(), TEXT, **options).stopped_reason == "finished"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings(
    "ignore:.*multi-threaded.*fork:DeprecationWarning"
)  # Python 3.12 and later; nothing is run there
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    held = ckpt.WriterLock(tmp_path / "c")
    (read, write), (started, start) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # lives on without the lock
        os.write(start, b"x")
        os.read(read, 1)
        os._exit(0)
    os.read(started, 1)
    held.forget()  # as the system would at the holder's end: the handle is closed, nothing is unlocked by hand
    try:
        ckpt.WriterLock(tmp_path / "c").release()
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        for end in (read, write, started, start):
            os.close(end)


def test_threads_take_the_lock_in_turn(tmp_path):
    """The file of the lock is removed by its holder; nobody may hold a removed one."""
    holders, most, wins = [], [], []

    def run():
        mine_too = 0
        while mine_too < 10:  # however the threads are scheduled
            try:
                mine = ckpt.WriterLock(tmp_path / "c")
            except hs.InputError:
                continue
            mine_too += 1
            holders.append(mine)
            most.append(len(holders))
            wins.append(1)
            holders.remove(mine)
            mine.release()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert max(most) == 1 and len(wins) == 60 and not list(tmp_path.iterdir())


def test_where_files_cannot_be_locked_the_run_goes_on_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "try_lock", lambda file: None)
    with pytest.warns(UserWarning, match="c': files cannot be locked there"):
        hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_stale_temporary_files_go_and_those_of_live_writers_stay(tmp_path):
    stale = [tmp_path / name for name in (".f.123.part", ".f.7b-0123456789abcdef.part")]
    others = [tmp_path / name for name in (".g.123.part", ".f.notes.part", "f.part")]
    for one in stale + others:
        one.write_bytes(b"half")
    live = tmp_path / ".f.1c8-ffffffffffffffff.part"
    with open(live, "wb") as file:
        assert lock.try_lock(file)
        ckpt.write(tmp_path / "f", {"a": torch.ones(2)}, {"n": 1})
    assert {p.name for p in tmp_path.iterdir()} == {"f", live.name, *(p.name for p in others)}


def test_many_writers_of_one_file_leave_a_whole_one(tmp_path):
    file = tmp_path / "f"

    def run(k):
        for _ in range(25):
            ckpt.write(file, {"a": torch.full((1000,), float(k))}, {"k": k})

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for one in threads:
        one.start()
    reads = 0
    while any(one.is_alive() for one in threads):
        if file.exists():
            tensors, facts = ckpt.read(file)
            assert tensors["a"].unique().tolist() == [facts["k"]]
            reads += 1
    assert reads and [p.name for p in pathlib.Path(tmp_path).iterdir()] == ["f"]


def test_a_link_stays_a_link_and_shares_the_lock(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "run")
    hs.fit(lm(), TEXT, checkpoint=link, **QUICK)
    assert link.is_symlink() and (tmp_path / "there" / "run").stat().st_size > 0
    run = hs.fit(lm(), TEXT, checkpoint=tmp_path / "there" / "run", resume=True, **QUICK)
    assert len(run.history["loss"]) == QUICK["steps"]
