"""`block_size="measured"`: the fastest size is taken, remembered, kept in checkpoints, and leaves no trace in the model."""

import json

import pytest
import torch
from cases import batch, gradient, model

import hbll_seq as hs
from hbll_seq.rules import fastest_block


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HBLL_SEQ_CACHE", str(tmp_path))
    return tmp_path / "blocks.json"


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the steps move, by what the test says they take."""
    now = [0.0]
    monkeypatch.setattr(fastest_block.time, "perf_counter", lambda: now[0])
    return now


def test_candidates_leave_two_blocks_and_enough_rows():
    assert fastest_block.candidates(4096, 8) == [32, 64, 128, 256, 512, 1024, 2048]
    assert fastest_block.candidates(256, 64) == [16, 32, 64, 128]
    assert fastest_block.candidates(100, 1) == [8, 16, 32]  # 13, 7, 4 blocks
    assert fastest_block.candidates(12, 2) == [12]  # one block
    assert fastest_block.candidates(64, 4096) == [32]  # more rows than were ever best: the longest


def test_the_shortest_median_wins_though_one_moment_was_slow(clock):
    made = []

    def make(size):
        made.append(size)
        times = iter([9.0] * fastest_block.WARM + [1.0 + abs(size - 64) / 64] * 4 + [100.0 if size == 64 else 0.1])

        def one():
            clock[0] += next(times)

        return one

    assert fastest_block.fastest([16, 32, 64, 128], make) == 64
    assert made == [16, 32, 64, 128]
    assert fastest_block.fastest([32], make) == 32 and made == [16, 32, 64, 128]  # nothing to measure


def test_the_rule_learns_as_with_the_size_it_found_and_the_model_is_as_it_was(cache):
    net, data = model("gru"), batch(3, 64)
    weights = [p.detach().clone() for p in net.parameters()]
    state = torch.get_rng_state()
    rule = hs.rules.make("hbll", block_size="measured")
    found = gradient(rule, net, data)
    (block,) = rule.measured.values()
    assert block in fastest_block.candidates(64, 3)
    torch.testing.assert_close(found, gradient(hs.rules.make("hbll", block_size=block), net, data))
    assert all(torch.equal(p, q) for p, q in zip(weights, net.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert rule.controller.steps == 1  # the twins' steps are not its own
    ((name, kept),) = json.loads(cache.read_text()).items()
    assert kept == block and "GRUCell 6 6" in name and "64 steps x 3" in name


def test_it_is_measured_once_for_a_machine_and_shape(cache, monkeypatch):
    net = model("gru")
    gradient(hs.rules.make("hbll", block_size="measured"), net, batch(3, 64))
    known = {name: 16 for name in json.loads(cache.read_text())}
    cache.write_text(json.dumps(known))
    monkeypatch.setattr(fastest_block, "fastest", lambda *_: pytest.fail("measured again"))
    rule = hs.rules.make("hbll", block_size="measured")
    for steps in (64, 40, 33):  # to the same power of two
        gradient(rule, net, batch(3, steps))
    assert rule.measured == {"64 steps x 3": 16}


@pytest.mark.parametrize("content", ["", "[1]", '{"a": '])
def test_a_spoiled_or_unwritable_cache_costs_a_measurement_only(cache, content, monkeypatch):
    cache.write_text(content)
    assert fastest_block.remember("one", lambda: 32) == 32
    assert fastest_block.remember("one", lambda: 64) == 32
    blocked = cache.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("HBLL_SEQ_CACHE", str(blocked / "below"))
    assert fastest_block.remember("one", lambda: 64) == 64


def test_a_resumed_run_keeps_the_size(tmp_path, cache):
    text = torch.randint(0, 7, (40, 64), generator=torch.Generator().manual_seed(0))
    options = dict(batch_size=4, progress=False, block_size="measured")
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
        json.dumps({name: 8 for name in json.loads(cache.read_text())})
    )  # the machine thinks otherwise now
    second = model("gru").float()
    run = hs.fit(second, text[:, :-1], text[:, 1:], steps=6, checkpoint=file, resume=True, **options)
    assert run.history["depth"] == whole.history["depth"]
    assert run.history["loss"] == whole.history["loss"]


def test_not_beside_what_decides_itself():
    for options in ({"memory": "1MB"}, {"group": 2}, {"execution": "auto"}):
        with pytest.raises(hs.InputError, match='block_size: got "measured" beside execution, group or memory'):
            hs.rules.make("hbll", block_size="measured", **options)
    with pytest.raises(
        hs.InputError, match='block_size: got \'longest\'; expected an integer >= 1, "auto" or "measured"'
    ):
        hs.rules.make("hbll", block_size="longest")
