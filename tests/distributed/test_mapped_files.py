"""Runs from mapped files: every rank reads its share alone, and the run equals that of one process with all data."""

import file_runs as work
import pytest
from process_pool import Pool


@pytest.mark.parametrize(
    "kind, parallel, batch_size, window", (
        ("tokens", {"time": 2}, 1, None), ("tokens", {"time": 2}, 4, 90), ("tokens", {"data": 2}, 3, 64),
        ("features", {"time": 2}, 2, 150), ("features", {"data": 2}, 2, 100),
    ),
)  # fmt: skip
def test_each_rank_reads_its_share_alone(
    pair: Pool, tmp_path, kind: str, parallel: dict, batch_size: int, window: int | None
):
    found = pair.run(2, work.beside, str(tmp_path), kind, parallel, batch_size, window)
    assert all(off < 1e-6 for off, _ in found), found
    shares = [share for _, share in found]
    assert sum(shares) < 1.03 and max(shares) <= 0.67  # a target one step ahead is read twice; 3 rows are 2 and 1


def test_a_value_on_one_rank_that_cannot_be_used_ends_all_before_training(pair: Pool, tmp_path):
    (first, open_), (second, again) = pair.run(2, work.spoilt, str(tmp_path))
    assert "another rank" in first and "255" in second
    assert open_ == again == "x: an OpenSpan without stateful=True"
