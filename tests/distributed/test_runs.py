"""Runs of `fit` on several processes equal the run of one, whatever is spread; faults end them with an error."""

import pytest
import spread_runs as work
from process_pool import Pool

CLOSE = 1e-6  # float32, after 50 updates


@pytest.mark.parametrize("data, time", ((1, 2), (2, 1), (2, 2)))
@pytest.mark.parametrize("name", ("next", "carried", "steps", "sequence", "module"))
def test_a_run_in_a_grid_equals_a_run_of_one_process(pool: Pool, pair: Pool, name: str, data: int, time: int):
    ranks = data * time
    found = (pair if ranks == 2 else pool).run(
        ranks, work.beside, name, data, time, {"steps": 50 if ranks == 2 else 12}
    )
    assert all(one["off"] < CLOSE for one in found), found
    assert all(one["sum"] == found[0]["sum"] for one in found)  # the same bits on every rank


@pytest.mark.parametrize(
    "name, axis", (
        ("ragged module", "time"), ("few targets", "data"), ("unused", "data"), ("unused", "time"), ("callable", "data"),
        ("discounted", "data"),
    ),
)  # fmt: skip
def test_shares_of_unequal_weight(pair: Pool, name: str, axis: str):
    sizes = {"data": 1, "time": 1} | {axis: 2}
    steps = {"discounted": 2}.get(name, 5)
    found = pair.run(2, work.beside, name, sizes["data"], sizes["time"], {"steps": steps})
    assert all(one["off"] < CLOSE for one in found), found


def test_a_callback_of_one_rank_stops_all(pair: Pool):
    assert pair.run(2, work.called, 4) == [3, 3]


def test_bptt_with_validation(pair: Pool):
    found = pair.run(2, work.beside, "module", 1, 2, {"steps": 6, "rule": "bptt", "validation": 0.25})
    assert all(one["off"] < CLOSE for one in found), found


def test_what_cannot_be_spread_is_refused(pair: Pool):
    wanted = ["parallel", "parallel", "parallel", "rule", "execution", "parallel", "parallel", "y", "discount"]
    wanted.append("parallel['micro_batches']")
    assert pair.run(2, work.refused) == [wanted, wanted]


def test_a_rank_that_is_not_finite_stops_all_with_good_weights(pair: Pool):
    found = pair.run(2, work.diverged)
    assert found == [("DivergenceError", True)] * 2


def test_a_checkpoint_resumes_with_another_number_of_ranks(pool: Pool, pair: Pool, tmp_path):
    two, four, time = {"data": 2}, {"data": 2, "time": 2}, {"time": 2}
    whole = pair.run(2, work.stored, str(tmp_path / "a"), 12, two, False)
    first = pair.run(2, work.stored, str(tmp_path / "b"), 12, two, False, 8)
    again = pair.run(2, work.stored, str(tmp_path / "b"), 12, two, True)
    assert all(bool((p == q).all()) for a in again for p, q in zip(a, whole[0], strict=True))
    assert first is not None
    for other in (four, time):
        pair.run(2, work.stored, str(tmp_path / "c"), 12, two, False, 8)
        ranks = 4 if other is four else 2
        found = (pool if ranks == 4 else pair).run(ranks, work.stored, str(tmp_path / "c"), 12, other, True)
        off = max(float((p - q).abs().max()) for a in found for p, q in zip(a, whole[0], strict=True))
        assert off < CLOSE


def test_processes_with_gpus_have_one_each_and_send_from_the_cpu_too(monkeypatch):
    import torch
    import torch.distributed as dist

    from hbll_seq import distributed as hd

    asked: list = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: asked.append(backend))
    hd.initialise()
    assert asked == [1, "cpu:gloo,cuda:nccl"]


def test_without_torchrun():
    import hbll_seq as hs

    with pytest.raises(hs.InputError, match="torchrun"):
        work.run("steps", steps=1, parallel={"time": 2})
