"""Benchmarks that stop by the clock or read somebody's archive: what they promise about time, guesses and references."""

import dataclasses
import zipfile

import pytest
import torch

import hbll_seq as hs
from benchmarks import listops, results, series


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "commit", lambda: "")
    return tmp_path


@pytest.fixture
def short(monkeypatch):
    """Short expressions in place of those of 500 to 2,000 symbols."""
    monkeypatch.setattr(
        listops, "expressions", lambda n, seed: hs.datasets.load("listops", n=n, seed=seed, shortest=5, longest=20)
    )


def test_a_budget_ends_a_run_when_it_is_used_up(monkeypatch):
    now = iter(range(1000))  # a second passes between two looks at the clock
    monkeypatch.setattr(listops.time, "process_time", lambda: float(next(now)))
    clock = listops.Budget(lambda model: {"accuracy": 0.5}, seconds=6.0, points=3)
    run = type("Run", (), {"model": None})()
    clock.on_fit_begin(run)
    left, over = [clock.left(0)], []
    for step in range(6):
        over.append(clock.on_step_end(run, step))
        left.append(clock.left(step + 1))
    assert over == [False] * 5 + [True]
    assert left == pytest.approx([1 - i / 6 for i in range(7)])
    assert [point["step"] for point in clock.curve] == [2, 4, 6]


def test_a_run_writes_what_the_page_reads_and_is_not_made_twice(folder, short):
    settings = dict(cell="gru", hidden=8, batch=4, budget=0.05, lr=2e-3)
    for _ in range(2):
        listops.run("hbll", 100, settings, sizes=(16, 4, 8))
    [record] = results.read("listops")
    figures = record["figures"]
    assert 0 <= figures["accuracy"] <= 1 and figures["updates"] >= 1 and figures["seconds"] >= 0.05
    assert figures["chain_gap"] < 1e-5
    assert record["curve"][-1]["step"] == figures["updates"]
    listops.run("hbll", 1, settings, sizes=(16, 4, 8))
    assert len(results.read("listops")) == 1 and len(results.read("listops-grid")) == 1, "seeds below 100 are choices"


def test_the_guess_is_the_most_frequent_value_under_an_operator():
    x = torch.tensor([[10, 3, 14], [10, 3, 14], [10, 5, 14], [11, 7, 14]])
    some = hs.datasets.load("listops", n=4, shortest=5, longest=20)
    data = dataclasses.replace(some, x=x, y=torch.tensor([3, 3, 5, 7]))
    test = dataclasses.replace(some, x=x, y=torch.tensor([3, 5, 3, 7]))
    assert listops.guesses(data, test).tolist() == [True, False, True, True]


def test_references_are_those_of_the_first_column(tmp_path):
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as wheel:
        for name, value in (("HC2", "0.95"), ("FreshPRINCE", "0.8")):
            table = f"Resamples:,0,1\nPigCVP,{value},0.1\nElsewhere,0.2,0.3\n"
            wheel.writestr(f"aeon/testing/example_results_files/classification/accuracy/{name}_accuracy.csv", table)
        wheel.writestr("aeon/testing/example_results_files/classification/auroc/HC2_auroc.csv", "PigCVP,0.99\n")
    assert series.references(tmp_path / "one.whl") == {"PigCVP": {"FreshPRINCE": 0.8, "HC2": 0.95}}


def test_the_plain_side_gets_hbll_time_and_its_own_updates(tmp_path, monkeypatch):
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(6, 1, generator=g).numpy() for _ in range(8)]
    y = torch.arange(8).remainder(2).numpy()
    monkeypatch.setattr(series, "read", lambda wheel, name, part: (x, y))
    monkeypatch.setattr(series, "OPTIONS", dict(hidden=4, epochs=2, batch_size=4, lr=1e-3))
    sides = {one["rule"]: one for one in series.lines("", "any", 0, 2)}
    assert list(sides) == list(series.RULES)
    assert [sides[rule]["figures"]["updates_made"] for rule in ("hbll", "bptt", "torch")] == [4, 4, 4]
    assert sides["torch, equal time"]["figures"]["updates_made"] >= 1
    assert sides["torch"]["figures"]["same_answers"] == sides["bptt"]["figures"]["same_answers"] == 1.0
    assert len({str(one["options"]) for one in sides.values()}) == 1, "one row a rule on the page"
