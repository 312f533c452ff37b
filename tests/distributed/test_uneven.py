"""Short batches, unequal lengths, losses of whole sequences and little memory: equal to one process, in float64."""

import spread_uneven as work
from process_pool import Pool

CLOSE = 1e-8
SHORT = ["rows", "steps", "list", "accumulate", "streams"]
PACKED = ["sequence", "packed total", "packed told", "packed bare"]
WHOLE = ["ctc", "ctc sum", "callable", "sum at ends", "values at ends"]
MEMORY = ["memory", "memory deep"]


def check(found: list[dict[str, float]]) -> None:
    assert all(off < CLOSE for one in found for off in one.values()), found


def test_batches_and_sequences_shorter_than_a_span_a_rank(pair: Pool, pool: Pool):
    check(pair.run(2, work.beside, SHORT + PACKED, {"time": 2}))
    check(pair.run(2, work.beside, ["steps", "packed bare"], {"data": 2}))
    check(pool.run(4, work.beside, ["steps", "streams", "packed bare", "ctc sum"], {"data": 2, "time": 2}))


def test_losses_of_whole_sequences(pair: Pool):
    check(pair.run(2, work.beside, WHOLE, {"time": 2}))


def test_a_budget_of_memory_bounds_what_every_rank_keeps_and_changes_nothing(pair: Pool):
    check(pair.run(2, work.beside, MEMORY, {"time": 2}))
    for rule in ("hbll", "bptt"):
        kept = pair.run(2, work.in_flight, rule, "1MB")
        assert max(kept) <= 317, kept  # 3,152 bytes a time step of one sequence
    assert min(pair.run(2, work.in_flight, "hbll", None)) > 400


def test_a_first_batch_that_cannot_be_cut_warns_and_counts(pair: Pool):
    for off, said in pair.run(2, work.first_short):
        assert off < CLOSE and len(said) == 1 and "ranks share the sequences" in said[0]


def test_other_data_on_every_rank_and_outputs_without_their_time_steps_are_refused(pair: Pool):
    wanted = ["x: another first batch on every rank"] * 2 + ["loss: 'ctc"]
    for found in pair.run(2, work.refused):
        assert [one.startswith(two) for one, two in zip(found, wanted, strict=True)] == [True] * 3, found
