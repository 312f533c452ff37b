"""`benchmarks.device` without its device: a dry run of every stage, and what keeps results when things go wrong."""

import sys

import pytest
import torch

from benchmarks.device import compare, report, stage_profile, stage_speed, stage_threads, stages, timing, where
from benchmarks.device.__main__ import main
from benchmarks.device.jobs import FATAL, Clock, Job, run_jobs
from benchmarks.device.lines import Lines, read
from benchmarks.device.supervise import supervise

EVERY_LINE = {
    "device",
    "cpu",
    "matmul",
    "vectors",
    "cores",
    "threads",
    "torch",
    "commit",
    "run",
    "stage",
    "dry",
    "time",
}


def test_every_job_of_every_stage_leaves_a_line(dry_run):
    for name, stage in stages.STAGES.items():
        promised = [job.name for job in stage.jobs(torch.device("cpu"), True)]
        assert [line["name"] for line in dry_run[name]] == promised
        assert len(promised) == len(set(promised))
        for line in dry_run[name]:
            assert line.keys() >= EVERY_LINE | {"dtype", "shape", "took"} and "event" not in line
            assert not isinstance(line.get("error"), str), line["error"]


def test_checks_pass_or_say_why_they_were_not_made(dry_run):
    made = [line for line in dry_run["correct"] if "skipped" not in line]
    assert all(line["passed"] and line["error"] <= line["tolerance"] for line in made)
    assert {"roll of gru", "roll of own", "bf16 roll", "CUDA graph", "bptt", "hbll parallel", "fit"} <= {
        x["group"] for x in made
    }
    assert {line["skipped"] for line in dry_run["correct"] if "skipped" in line} <= {"triton is not installed"}


def test_tables_of_times_have_their_sides(dry_run):
    for line in dry_run["gpu-speed"]:
        row = stage_speed.Row(line["cell"], *line["shape"].values(), loop="compiled loop" in line["sides"])
        assert list(line["sides"]) == stage_speed.names(row, torch.device("cpu"))
        for side in line["sides"].values():
            assert side["dtype"] and (side.get("seconds", 0) > 0) != ("left_out" in side)
    assert {line["threads"] for line in dry_run["cpu-threads"]} == {1, 2}
    for line in dry_run["cpu-threads"]:
        assert "skipped" in line or (
            list(line["sides"]) == list(stage_threads.SIDES) and "sweeps" in line["sides"]["parallel"]["metrics"]
        )
    assert all(line["top"] and 0 <= line["gaps"] <= 1 and line["timed"]["seconds"] > 0 for line in dry_run["profile"])


def test_the_report_has_a_table_of_every_stage(dry_run):
    text = report.markdown([line for lines in dry_run.values() for line in lines])
    for stage in stages.STAGES:
        assert f"## {stage}\n" in text
    assert "**dry run" in text and "What did not run" not in text
    for table in text.split("\n\n"):
        rows = [row for row in table.splitlines() if row.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_the_report_says_what_went_wrong_and_prefers_later_and_real_lines():
    machine = dict(
        device="card", cpu="c", vectors=[], cores=16, torch="2", commit="abc", time="2027-01-01 10:00", dry=False
    )
    check = dict(
        machine,
        stage="correct",
        job=0,
        name="roll",
        group="rolls",
        dtype="float32",
        shape={"K": 1},
        worst="end",
        tolerance=1e-4,
    )
    lines = [
        check | {"error": 0.5, "passed": False},
        check | {"error": 0.7, "passed": True, "dry": True},
        machine | dict(stage="correct", job=1, event="died", why="no line for 150 s"),
        machine | dict(stage="gpu-speed", job=2, event="budget spent", left_out=["gru B=1"]),
        machine | dict(stage="gpu-speed", job=1, name="lstm", error="RuntimeError: no"),
    ]
    text = report.markdown(lines)
    assert "0 of 1" in text and "1 failed" in text and "dry run" not in text
    assert "job 1 died: no line for 150 s" in text and "left out: gru B=1" in text and "RuntimeError: no" in text
    assert "1 of 1" in report.markdown([*lines, check | {"error": float("nan"), "passed": True}])
    assert report.markdown([]) == "Nothing measured yet."


class Time:
    """A clock that a job moves."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_budget_is_looked_at_between_jobs(tmp_path):
    clock, lines = Time(), Lines(tmp_path / "x.jsonl", run="r", stage="s")

    def forty(_):
        clock.now += 40
        return {"passed": True, "error": 0.0, "tolerance": 1.0}

    assert run_jobs([Job(str(i), forty) for i in range(5)], lines, Clock(100, clock)) == 0
    *made, last = read(lines.path)
    assert [line["name"] for line in made] == ["0", "1", "2"]
    assert last["event"] == "budget spent" and last["left_out"] == ["3", "4"]


def test_no_side_is_begun_after_the_budget():
    clock = Time()

    def build():
        clock.now += 60
        return dict

    found = timing.alternate({"a": build, "b": build, "c": build}, torch.device("cpu"), Clock(100, clock))
    assert "seconds" in found["a"] and found["a"]["repeats"] == 1  # no round either
    assert found["c"] == {"left_out": "budget spent"}


def test_a_side_that_fails_or_is_slow_does_not_spoil_the_others():
    def broken():
        raise RuntimeError("CUDA out of memory, or any other")

    def card():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    one = torch.device("cpu")
    found = timing.alternate({"no": broken, "yes": lambda: dict}, one, Clock(100))
    assert "any other" in found["no"]["left_out"] and found["yes"]["repeats"] == 5
    found = timing.alternate({"yes": lambda: dict, "no": card, "after": lambda: dict}, one, Clock(100))
    assert "broken" in found and "seconds" in found["yes"] and "after" not in found
    found = timing.alternate({"slow": lambda: dict}, one, Clock(100), slow=0.0)
    assert found["slow"]["repeats"] == 3
    assert timing.alternate({"slow": lambda: dict}, one, Clock(100), patience=0.0)["slow"]["repeats"] == 1


def test_patience_expects_no_less_than_was_seen():
    patience = timing.Patience(4.0)
    patience.learn("nn", "gru", 1, 1000, 64, 1.0)
    assert patience.expect("nn", "gru", 8, 8000, 128) == 8.0
    assert patience.expect("nn", "gru", 1, 8000, 32) == patience.expect("nn", "lstm", 1, 8000, 64) == 0.0


def test_an_error_is_a_line_and_a_spoilt_device_ends_the_process(tmp_path):
    lines = Lines(tmp_path / "x.jsonl", run="r", stage="s")

    def bad(_):
        raise ValueError("this one\nis bad")

    def spoilt(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert run_jobs([Job("a", bad), Job("b", spoilt), Job("c", bad)], lines, Clock(100)) == FATAL
    first, second = read(lines.path)
    assert (
        first["error"].startswith("ValueError: this one is bad (test_device_bench.py:") and "illegal" in second["error"]
    )
    assert run_jobs([Job("a", lambda _: {"broken": True})], lines, Clock(100)) == FATAL


# a stage without torch: job 1 kills its process, job 2 spoils the device, job 3 hangs
CHILD = """
import json, os, sys, time
start, path = int(sys.argv[1]), sys.argv[2]
for job in range(start, 5):
    if job == 1: os.kill(os.getpid(), 9)
    if job == 3: time.sleep(60)
    with open(path, "a") as file: file.write(json.dumps(dict(run="r", stage="s", job=job, name=str(job))) + "\\n")
    if job == 2: sys.exit(3)
"""


def test_a_killed_stage_keeps_its_lines_and_goes_on_behind_the_job_that_killed_it(tmp_path):
    lines, starts = Lines(tmp_path / "x.jsonl", run="r", stage="s"), []
    lines.write(run="another", job=7, name="7")

    def command(start, left):
        starts.append(start)
        return [sys.executable, "-c", CHILD, str(start), str(lines.path)]

    assert supervise(command, lines, 60, silence=1.0)
    _, *found = read(lines.path)
    assert [(line["job"], line.get("event")) for line in found] == [
        (0, None),
        (1, "died"),
        (2, None),
        (3, "died"),
        (4, None),
    ]
    assert "status -9" in found[1]["why"] and "no line for 1 s" in found[3]["why"]
    assert starts == [0, 2, 3, 4]


def test_a_stage_that_cannot_start_is_given_up(tmp_path):
    lines = Lines(tmp_path / "x.jsonl", run="r", stage="s")
    assert not supervise(lambda start, left: [sys.executable, "-c", "raise SystemExit(1)"], lines, 60)
    assert len(list(read(lines.path))) == 3


def test_a_stage_that_runs_past_its_budget_is_ended(tmp_path):
    lines = Lines(tmp_path / "x.jsonl", run="r", stage="s")
    command = lambda start, left: [sys.executable, "-c", CHILD, "3", str(lines.path)]
    assert not supervise(command, lines, 0.3, grace=0.3)
    (line,) = read(lines.path)
    assert line["why"] == "it did not end with the budget"


def test_half_a_line_is_passed_over(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(read(path)) == [{"a": 1}] and not list(read(tmp_path / "none"))


def test_what_is_not_a_number_never_passes():
    ones, nan = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    line = compare.verdict([("good", ones, ones), ("bad", nan, ones), ("off", 2 * ones, ones)], 1e-3)
    assert not line["passed"] and line["worst"] == "bad"
    assert compare.verdict([("faded", torch.zeros(3), 1e-9 * ones)], 1e-3, floor=1e-3)["passed"]
    with pytest.raises(ValueError, match="shape"):
        compare.error(ones, torch.ones(3, 1))


def test_busy_time_is_counted_once():
    assert stage_profile.union([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7


def test_the_command_line(tmp_path, capsys):
    assert main(["--list"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == [
        "correct",
        "gpu-speed",
        "profile",
        "cpu-threads",
    ]
    assert main(["--report", "--out", str(tmp_path)]) == 0
    assert "Nothing measured yet" in capsys.readouterr().out
    assert main(["--list", "--total", "610"]) == 0
    assert "correct       150 s" in capsys.readouterr().out
    assert all(stage.budget <= 480 - 60 for stage in stages.STAGES.values())  # with the grace below eight minutes


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert main(["--stage", "profile", "--out", str(tmp_path)]) == 0
    (line,) = read(tmp_path / "device.jsonl")
    assert line["event"] == "skipped" and "no CUDA device" in line["why"]
    assert "no CUDA device" in report.markdown([line])


def test_the_processor_is_named():
    name, vectors = where.cpu()
    assert isinstance(name, str) and set(vectors) <= set(where.VECTORS) and where.cores() >= 1
