"""Spans in a pipeline of micro-batches equal one process, on every rank, forward and every gradient."""

import pytest
import spread_layers as work
import spread_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from process_pool import Pool

import hbll_seq as hs
from hbll_seq.distributed import ranks as grid
from hbll_seq.distributed.group import Traffic

CLOSE = 1e-8  # float64
KINDS = ("GRU", "LSTM", "RNN", "relu", "MinGRU", "projected")


def _both(group, kind, steps, spans, options):
    return work.both(group, kind, steps, spans, **options)


def check(found: list) -> None:
    assert all(one["off"] < CLOSE for one in found), found


@pytest.mark.parametrize("kind", (*KINDS, "own"))
def test_a_pipeline_equals_one_process(pool: Pool, kind: str):
    check(pool.run(3, _both, kind, 37, [9, 20, 8], {"rows": 4, "micro_batches": 2}))


@pytest.mark.parametrize("packed", (False, True))
def test_sequences_that_end_inside_spans_or_before(pool: Pool, packed: bool):
    options = {"rows": 5, "ragged": True, "packed": packed, "bidirectional": True, "micro_batches": 3}
    check(pool.run(3, _both, "LSTM", 41, [5, 20, 16], options))


@settings(max_examples=8)
@given(
    st.sampled_from(KINDS), st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 5), st.integers(1, 6),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_micro_batches(
    pool: Pool, kind: str, spans: list, rows: int, parts: int, ragged: bool, bidirectional: bool
):
    options = {"rows": rows, "micro_batches": parts, "ragged": ragged, "bidirectional": bidirectional}
    check(pool.run(len(spans), _both, kind, sum(spans), spans, options))


@pytest.mark.parametrize("kind", ("RNN", "LSTM"))
def test_dynamics_that_do_not_forget_cost_no_more(pool: Pool, kind: str):
    options = {"rows": 4, "micro_batches": 4}
    found = [pool.run(4, _both, kind, 44, None, options | {"scale": scale}) for scale in (1.0, 4.0)]
    check(found[0] + found[1])
    assert [one["sends"] for one in found[0]] == [one["sends"] for one in found[1]]
    assert [one["collectives"] for one in found[0]] == [one["collectives"] for one in found[1]]
    # two layers, four micro-batches: a state to the next rank, a message to the one before
    assert [one["sends"] for one in found[0]] == [8, 16, 16, 8]


def test_what_is_sent_does_not_grow_with_time(pool: Pool):
    sent = [pool.run(2, _both, "GRU", steps, None, {"micro_batches": 3})[0] for steps in (40, 400)]
    assert sent[0]["numbers"] == sent[1]["numbers"] and sent[0]["sends"] == sent[1]["sends"]


@pytest.mark.parametrize("name", ("next", "carried", "steps", "sequence", "module", "ragged module"))
def test_whole_runs(pool: Pool, pair: Pool, name: str):
    options = {"steps": 5 if name == "ragged module" else 20, "micro_batches": 3}
    found = pair.run(2, spread_runs.beside, name, 1, 2, options)
    if name == "steps":  # shares of the batch too
        found += pool.run(4, spread_runs.beside, name, 2, 2, options)
    assert all(one["off"] < 1e-6 and one["again"] == 0 for one in found), found


class First:
    """Ranks that `advise` speaks for."""

    def __init__(self, size: int):
        self.rank, self.size = 0, size


def told(again: float, rows: int, steps: int, parts: int | None = None) -> list[str]:
    group: object = First(2)
    ranks = grid.Ranks(group, group, group, (), parts)  # type: ignore[arg-type]
    with pytest.warns() as found:
        for _ in range(3 * grid.TRIED):
            ranks.advise(Traffic(passes=4, again=4 * again), rows, steps)
        hs.errors.warn("the end")
    return [str(one.message) for one in found][:-1]


def test_what_runs_twice_is_said_once():
    said = told(0.5, 8, 16384)
    assert len(said) == 1 and '{"time": 2, "micro_batches": 4}' in said[0] and "50%" in said[0]
    assert '"micro_batches": 2}' in told(0.5, 2, 16384)[0]


@pytest.mark.parametrize(
    "again, rows, steps, parts", ((0.1, 8, 16384, None), (0.5, 1, 16384, None), (0.5, 8, 512, None), (0.5, 8, 16384, 2))
)
def test_nothing_is_said_where_a_pipeline_would_not_help(again, rows, steps, parts):
    assert told(again, rows, steps, parts) == []


def test_spans_that_run_again_are_counted(pair: Pool):
    def again(steps, **options):
        return [one["again"] for one in pair.run(2, _both, "GRU", steps, None, options)]

    # the last one found its start by a roll before; the first one passed a corrected message back once more
    assert again(44, rows=2, scale=4.0) == [pytest.approx(0.5), 0]
    assert again(2400, rows=1, tolerance=1e-12) == [0, 0]


@pytest.mark.parametrize("parts", (None, 2))
def test_parametrized_and_frozen_weights_and_hooks(pair: Pool, parts: int | None):
    assert all(off < CLOSE and calls == 1 for off, calls in pair.run(2, work.parametrized, parts))
