"""Meshes, FSDP, shared validation; what a run leaves behind, and what it refuses before it starts."""

import pytest
import spread_wraps as work
from process_pool import Pool


@pytest.mark.parametrize("data, time", ((1, 2), (2, 1)))
def test_a_run_in_a_mesh_equals_a_run_of_one_process_and_leaves_the_mesh(pair: Pool, data: int, time: int):
    assert max(pair.run(2, work.by_mesh, data, time)) < 1e-6


def test_fully_sharded_layers_over_spans_equal_one_process(pair: Pool):
    assert max(pair.run(2, work.fully_sharded, 21)) < 1e-8


def test_running_means_are_those_of_all_ranks_and_no_group_is_left(pair: Pool):
    (one, left), (other, again) = pair.run(2, work.running)
    assert one == other and any(one) and left == again == 0


def test_a_plain_layer_in_a_loop_over_spans_warns_until_it_is_converted(pair: Pool):
    for found in pair.run(2, work.plain):
        assert len(found) == 1 and "hs.convert" in found[0]


def test_data_without_a_time_step_a_rank_are_refused_before_the_first_update(pair: Pool):
    for what, same in pair.run(2, work.too_short):
        assert what.startswith("parallel") and "for 1 time steps" in what and same


@pytest.mark.parametrize("name, data, time", (("next", 2, 1), ("module", 1, 2)))
def test_validation_is_shared_and_stops_all_ranks_alike(pair: Pool, name: str, data: int, time: int):
    found = pair.run(2, work.validated, name, data, time)
    for off, (alone, spread) in found:
        assert off < 1e-6 and spread == found[0][1][1]
        assert alone["val_step"] == spread["val_step"]
        assert spread["val_loss"] == pytest.approx(alone["val_loss"], abs=1e-6)
