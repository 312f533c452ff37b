"""`execution="measured"`: the fastest schedule is taken, remembered, kept in checkpoints, and leaves no trace in the model."""

import json

import pytest
import torch
from cases import batch, gradient, model

import hbll_seq as hs
from hbll_seq.engine import Schedule
from hbll_seq.rules import fastest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HBLL_SEQ_CACHE", str(tmp_path))
    return tmp_path / "schedules.json"


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the steps move, by what the test says they take."""
    now = [0.0]
    monkeypatch.setattr(fastest.time, "perf_counter", lambda: now[0])
    return now


def blocks(sides, execution):
    return [side.block for side in sides if side.execution == execution]


def test_candidates_leave_two_blocks_and_enough_rows():
    found = fastest.candidates(4096, 8, 4096)
    assert blocks(found, "sequential") == [4096]
    assert blocks(found, "parallel") == [32, 64, 128, 256, 512, 1024, 2048]
    assert set(blocks(found, "exact-forward")) < set(blocks(found, "parallel"))
    assert blocks(fastest.candidates(256, 64, 256), "parallel") == [16, 32, 64, 128]
    assert blocks(fastest.candidates(100, 1, 100), "parallel") == [8, 16, 32]  # 13, 7, 4 blocks
    assert fastest.candidates(12, 2, 12) == [Schedule("sequential", 12)]  # one block
    assert blocks(fastest.candidates(64, 4096, 64), "parallel") == [32]  # more rows than were ever best: the longest
    assert blocks(fastest.candidates(4096, 8, 96), "parallel") == [32]  # discounts act at multiples of 96


def test_the_shortest_median_wins_though_one_moment_was_slow(clock):
    made = []

    def make(side):
        made.append(side)
        best = side.block == 64
        times = iter([9.0] * fastest.WARM + [1.0 + abs(side.block - 64) / 64] * 4 + [100.0 if best else 0.1])

        def one():
            clock[0] += next(times)

        return one

    sides = [Schedule("parallel", k) for k in (16, 32, 64, 128)]
    assert fastest.fastest(sides, make) == sides[2]
    assert made == sides
    assert fastest.fastest(sides[1:2], make) == sides[1] and made == sides  # nothing to measure


def test_the_rule_learns_as_with_what_it_found_and_the_model_is_as_it_was(cache):
    net, data = model("gru"), batch(3, 64)
    weights = [p.detach().clone() for p in net.parameters()]
    state = torch.get_rng_state()
    rule = hs.rules.make("hbll", execution="measured", discount=1.0, tolerance=1e-12, feedback_tolerance=1e-12, most=20)
    found = gradient(rule, net, data)
    (side,) = rule.engine.pinned.values()
    assert side in fastest.candidates(64, 3, 64)
    torch.testing.assert_close(found, gradient(hs.rules.make("bptt"), net, data), rtol=1e-6, atol=1e-9)
    assert all(torch.equal(p, q) for p, q in zip(weights, net.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert rule.engine.controller.steps == 1  # the twins' steps are not its own
    ((name, kept),) = json.loads(cache.read_text()).items()
    assert kept == [side.execution, side.block] and "GRUCell 6 6" in name and "64 steps x 3" in name


def test_it_is_measured_once_for_a_machine_and_shape(cache, monkeypatch):
    net = model("gru")
    gradient(hs.rules.make("hbll", execution="measured"), net, batch(3, 64))
    cache.write_text(json.dumps({name: ["parallel", 16] for name in json.loads(cache.read_text())}))
    monkeypatch.setattr(fastest, "fastest", lambda *_: pytest.fail("measured again"))
    rule = hs.rules.make("hbll", execution="measured")
    for steps in (64, 40, 33):  # to the same power of two
        gradient(rule, net, batch(3, steps))
    assert rule.engine.pinned == {"64 steps x 3, credit 16": Schedule("parallel", 16)}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": '])
def test_a_spoiled_or_unwritable_cache_costs_a_measurement_only(cache, content, monkeypatch):
    cache.write_text(content)
    one, two = Schedule("parallel", 32), Schedule("sequential", 64)
    assert fastest.remember("one", lambda: one) == one
    assert fastest.remember("one", lambda: two) == one
    blocked = cache.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("HBLL_SEQ_CACHE", str(blocked / "below"))
    assert fastest.remember("one", lambda: two) == two


def test_a_resumed_run_keeps_the_schedule(tmp_path, cache):
    text = torch.randint(0, 7, (40, 64), generator=torch.Generator().manual_seed(0))
    options = dict(batch_size=4, progress=False, execution="measured")
    whole = hs.fit(model("gru").float(), text[:, :-1], text[:, 1:], steps=6, **options)
    file = tmp_path / "run.safetensors"

    class Stop:
        def on_step_end(self, run, step):
            return step == 3

    first = model("gru").float()
    hs.fit(
        first, text[:, :-1], text[:, 1:], steps=6, checkpoint=file, checkpoint_every=3, callbacks=[Stop()], **options
    )
    cache.write_text(
        json.dumps({name: ["parallel", 8] for name in json.loads(cache.read_text())})
    )  # the machine thinks otherwise now
    second = model("gru").float()
    run = hs.fit(second, text[:, :-1], text[:, 1:], steps=6, checkpoint=file, resume=True, **options)
    assert run.history["depth"] == whole.history["depth"]
    assert run.history["loss"] == whole.history["loss"]


def test_not_beside_what_decides_itself():
    for options in ({"memory": "1MB"}, {"group": 2}):
        with pytest.raises(hs.InputError, match='execution: got "measured" beside group or memory'):
            hs.rules.make("hbll", execution="measured", **options)
    with pytest.raises(hs.InputError, match='block_size: got "measured"; expected execution="measured"'):
        hs.rules.make("hbll", block_size="measured")
