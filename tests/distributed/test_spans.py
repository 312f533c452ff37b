"""Layers over spans of time on several processes equal one process, on every rank, forward and every gradient."""

import pytest
import spread_layers as work
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from process_pool import Pool

import hbll_seq as hs
from hbll_seq import distributed as hd

CLOSE = 1e-8  # float64
KINDS = ("GRU", "LSTM", "RNN", "relu", "MinGRU", "projected")


def check(found: list) -> None:
    assert all(one["off"] < CLOSE for one in found), found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", (False, True))
def test_spans_equal_one_process(pool: Pool, kind: str, bidirectional: bool):
    check(pool.run(3, _both, kind, 37, [9, 20, 8], {"bidirectional": bidirectional}))
    # some sequences end inside spans, some before
    check(pool.run(2, _both, kind, 41, None, {"bidirectional": bidirectional, "ragged": True}))
    check(pool.run(3, _both, kind, 41, [5, 20, 16], {"bidirectional": bidirectional, "ragged": True, "packed": True}))


def _both(group, kind, steps, spans, options):
    return work.both(group, kind, steps, spans, **options)


@pytest.mark.parametrize("bidirectional", (False, True))
def test_one_rank_knows_the_lengths_too(pool: Pool, bidirectional: bool):
    check(pool.run(1, _both, "GRU", 41, None, {"bidirectional": bidirectional, "ragged": True}))


@pytest.mark.parametrize("kind", ("GRU", "LSTM", "RNN"))
def test_layers_that_one_process_leaves_to_pytorch(pool: Pool, kind: str):
    for bidirectional in (False, True):
        assert max(pool.run(2, work.by_default, kind, bidirectional)) < 1e-5
    assert pool.run(2, work.half) == ["input", "input"]


def test_a_cell_of_ones_own(pool: Pool):
    check(pool.run(3, _both, "own", 30, None, {}))


@pytest.mark.parametrize("kind", ("GRU", "LSTM"))
def test_long_spans_that_forget_take_one_round(pool: Pool, kind: str):
    found = pool.run(4, _both, kind, 2400, None, {"rows": 1, "tolerance": 1e-12})
    check(found)
    # of each of two layers: guess and check of states, guess and check of messages; and the mean of the loss
    assert [one["collectives"] for one in found] == [9] * 4


@pytest.mark.parametrize("kind, bidirectional", (("LSTM", True), ("relu", False), ("own", False), ("projected", False)))
def test_spans_in_pieces(pool: Pool, kind: str, bidirectional: bool):
    options = {"least": 8, "rows": 2, "bidirectional": bidirectional} if bidirectional else {"least": 8, "rows": 2}
    check(pool.run(3, _both, kind, 61, [20, 33, 8], options))


def test_a_memory_shorter_than_a_span_takes_one_correction(pool: Pool):
    found = pool.run(2, _both, "own", 600, None, {"least": 200, "rows": 1, "tolerance": 1e-17})
    check(found)
    # one layer: guess and check of states; guess, check and check again of messages; and the mean of the loss
    assert found[0]["collectives"] <= 6


@pytest.mark.parametrize("kind", ("RNN", "LSTM"))
def test_dynamics_that_do_not_forget_are_exact_all_the_same(pool: Pool, kind: str):
    found = pool.run(4, _both, kind, 44, None, {"scale": 4.0})
    check(found)
    assert found[0]["collectives"] <= 2 * 2 * (4 + 2) + 1


def test_what_is_sent_does_not_grow_with_time(pool: Pool):
    options = {"rows": 1, "tolerance": 1e-12}
    sent = [pool.run(2, _both, "GRU", steps, None, options)[0] for steps in (1200, 2400)]
    assert sent[0]["numbers"] == sent[1]["numbers"] and sent[0]["collectives"] == sent[1]["collectives"]


def test_an_engine_with_tolerances_inside_spans_makes_few_extra_rounds(pool: Pool):
    inside = {"execution": "parallel", "tolerance": None, "block_size": 16}
    found = pool.run(4, _both, "GRU", 2400, None, {"rows": 1, **inside})
    assert all(one["off"] < 1e-3 for one in found), found
    assert found[0]["collectives"] <= 11


@settings(max_examples=8)
@given(
    st.sampled_from(KINDS), st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 4), st.booleans(),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_spans(pool: Pool, kind: str, spans: list, rows: int, ragged: bool, packed: bool, bidirectional: bool):
    options = {"rows": rows, "ragged": ragged, "packed": ragged and packed, "bidirectional": bidirectional}
    check(pool.run(len(spans), _both, kind, sum(spans), spans, options))


@pytest.mark.parametrize("kind", ("GRU", "LSTM"))
def test_without_gradient(pool: Pool, kind: str):
    assert max(pool.run(3, work.evaluated, kind, 50)) < CLOSE


@pytest.mark.parametrize("ragged", (False, True))
def test_one_target_a_sequence(pool: Pool, ragged: bool):
    assert max(pool.run(3, work.one_target, 40, ragged)) < CLOSE


def test_a_loss_of_all_outputs(pool: Pool):
    assert max(pool.run(2, work.aligned, 20)) < CLOSE


def test_distributed_data_parallel_averages_over_spans(pool: Pool):
    assert max(pool.run(2, work.wrapped, 31)) < CLOSE


def test_what_does_not_fit_is_refused_before_anything_is_sent(pool: Pool):
    wanted = ["spans", "spans", "steps", "lengths", "lengths", "input", "tolerance", "input", "input", "lengths"]
    wanted += ["lengths", "lengths", "input"]
    assert pool.run(2, work.errors) == [wanted, wanted]


def test_without_processes():
    with pytest.raises(hs.InputError, match="init_process_group"):
        with hd.time_sharded():
            hs.nn.GRU(2, 2)(torch.zeros(3, 2))
