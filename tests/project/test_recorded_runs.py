"""Scripts that put their runs on record: what a record of `speed`, `quality` and `demo_seeds` holds, on tiny runs."""

import argparse
import sys

import pytest
import torch

from benchmarks import demo_seeds, quality, results, speed


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(speed, "OUT", tmp_path / "out" / "speed.jsonl")
    monkeypatch.setattr(quality, "OUT", tmp_path / "out" / "quality.jsonl")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # the scripts set them


def test_times_are_recorded_by_side_beside_those_of_the_first():
    a = argparse.Namespace(cell="gru", threads=1, record=103)
    speed.record(a, 1, 64, 8, speed.measure(["hbll", "bptt", "nn"], 1, 64, 8, repeats=1), repeats=1)
    ours, exact, layer = results.read("speed", task="1 x 64, 8 units", seed=103)
    assert [one["rule"] for one in (ours, exact, layer)] == ["hbll", "bptt", "torch"]
    assert ours["figures"]["ratio"] == 1.0 and ours["figures"]["depth"] == 128
    assert layer["figures"]["ratio"] == pytest.approx(layer["figures"]["ms"] / ours["figures"]["ms"])


def test_memory_is_a_row_of_its_own():
    a = argparse.Namespace(cell="gru", threads=2, record=100)
    speed.record(a, 1, 65536, 64, {"hbll-memory": {"mib": 98.0, "seconds": 0.25}}, repeats=1)
    [one] = results.read("speed")
    assert (one["task"], one["rule"]) == ("memory at 1 x 65,536, 64 units", "hbll, 256 MB")
    assert one["figures"] == {"ms": 250.0, "ratio": 1.0, "mib": 98.0}


def test_quality_records_a_run_only_where_it_is_told_to():
    task_options = {"steps": 32, "batch": 4, "hidden": 8}
    run = quality.train(
        "recall", "hbll", steps=2, lr=1e-3, seed=100, options={"discount": 1.0}, task_options=task_options, cosine=1
    )
    quality.keep(run)
    assert not results.read("quality")
    quality.keep(run, on_record=True)
    [one] = results.read("quality", task="recall, 2 updates", rule="hbll", seed=100)
    assert one["options"] == {
        "steps": 2, "lr": 1e-3, "cell": "gru", "discount": 1.0, "task steps": 32, "task batch": 4, "task hidden": 8
    }  # fmt: skip
    assert one["figures"]["cosine"] == pytest.approx(1, abs=1e-4) and one["figures"]["loss"] == run["loss"]
    run["objective"] = "mse"  # which has no accuracy
    run["options"] = {"execution": "parallel"}
    other = quality.record(run)
    assert "accuracy" in one["figures"] and "accuracy" not in other["figures"] and other["rule"] == "hbll, at once"


def test_the_demo_is_recorded_once_a_seed(monkeypatch, capsys):
    small = "demo_seeds --seeds 100 101 --sides hbll --steps 2 --hidden 8 --window 32 --batch 2"
    monkeypatch.setattr(sys, "argv", small.split())
    demo_seeds.main()
    demo_seeds.main()  # a run that is on record is not repeated
    first, second = results.read("demo", task="2 updates", rule="hbll")
    assert (first["seed"], second["seed"]) == (100, 101) and first["figures"]["bits"] != second["figures"]["bits"]
    assert set(first["figures"]) == {"bits", "depth", "cosine_first", "cosine_last"} and first["figures"]["depth"] == 64
    monkeypatch.setattr(sys, "argv", [*small.split(), "--times"])
    demo_seeds.main()
    times = results.read("demo", task="an update, 1 threads", seed=100)
    assert [one["rule"] for one in times] == ["hbll", "bptt", "torch"] and all(
        one["figures"]["ms"] > 0 for one in times
    )
