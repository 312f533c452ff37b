"""A history as a table, in memory and in files; callbacks that write while a run goes on."""

import csv
import math
import sys

import pytest
import torch
from runs import QUICK, TEXT, lm

import hbll_seq as hs
from hbll_seq.training.columns import Columns
from hbll_seq.training.loggers import latest

VALIDATED = dict(validation=0.2, validate_every=2)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(rows, run):
    """Every figure stands in the row of its update, and nowhere else."""
    h = run.history
    assert [int(row["step"]) for row in rows] == h["step"]
    assert [float(row["loss"]) for row in rows] == h["loss"]
    validations = {int(row["step"]): float(row["val_loss"]) for row in rows if row["val_loss"]}
    assert validations == dict(zip(h["val_step"], h["val_loss"], strict=True))


def test_a_history_is_a_table_with_a_row_an_update(tmp_path):
    run = hs.fit(lm(), TEXT, rule="hbll", measure_cosine=3, record_every=2, **VALIDATED, **QUICK)
    run.to_csv(tmp_path / "h.csv")
    rows = rows_of(tmp_path / "h.csv")
    check(rows, run)
    assert [bool(row["gradient_cosine"]) for row in rows] == [True, False, False, True, False, False]
    assert [row["schedule"] for row in rows] == run["schedule"] and "block_loss" not in rows[0]
    frame = run.to_frame()
    assert list(frame.index) == run["step"] and list(frame["loss"]) == run["loss"]
    assert frame["val_loss"].dropna().to_dict() == dict(zip(run["val_step"], run["val_loss"], strict=True))


def test_a_history_can_be_asked_like_its_dictionary():
    run = hs.fit(lm(), TEXT, rule="bptt", **VALIDATED, **QUICK)
    assert run["loss"] is run.history["loss"] and "loss" in run and "nonsense" not in run
    assert list(run) == list(run.keys()) == list(run.history)
    with pytest.raises(KeyError, match="'nonsense': not in this history, which has .*'loss'"):
        run["nonsense"]
    run.history["val_loss"][:] = [2.0, math.nan, 1.0]
    step, metrics = run.best
    assert step == 6 and metrics["val_loss"] == 1.0 and metrics["val_accuracy"] == run["val_accuracy"][2]
    assert "val_step" not in metrics and hs.History(None, {}, {}).best is None


def test_figures_of_a_later_rule_stay_in_their_rows(tmp_path):
    half = {**QUICK, "steps": 3}
    hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", **half)
    run = hs.fit(lm(), TEXT, rule="hbll", checkpoint=tmp_path / "c", resume="changed", **QUICK)
    assert len(run["sweeps"]) == 6 and all(math.isnan(v) for v in run["sweeps"][:3])
    assert not any(math.isnan(v) for v in run["sweeps"][3:]) and run["schedule"][:3] == ["", "", ""]
    back = hs.fit(lm(), TEXT, rule="bptt", checkpoint=tmp_path / "c", resume="changed", **{**QUICK, "steps": 8})
    columns = Columns(back.history).as_dict()
    assert columns["sweeps"][3:6] == run["sweeps"][3:] and columns["sweeps"][6:] == [None, None]


def test_a_csv_file_grows_while_the_run_goes_on(tmp_path):
    file, sizes = tmp_path / "run.csv", []

    class Watch:
        def on_validation(self, run, step):
            check(rows_of(file), run)
            sizes.append(file.stat().st_size)

    run = hs.fit(
        lm(),
        TEXT,
        rule="hbll",
        callbacks=[hs.callbacks.CSVLogger(file), Watch()],
        measure_cosine=4,
        **VALIDATED,
        **QUICK,
    )
    check(rows_of(file), run)
    assert sizes == sorted(set(sizes)) and len(sizes) == 3
    run.to_csv(tmp_path / "again.csv")
    assert file.read_bytes() == (tmp_path / "again.csv").read_bytes()
    with pytest.raises(OSError):  # before any work
        hs.fit(lm(), TEXT, callbacks=[hs.callbacks.CSVLogger(tmp_path / "no" / "folder.csv")], **QUICK)


def test_a_resumed_run_writes_its_whole_history(tmp_path):
    def go(steps, resume):
        log = hs.callbacks.CSVLogger(tmp_path / "run.csv", every=1)
        kept = dict(checkpoint=tmp_path / "c", checkpoint_every=1, resume=resume, callbacks=[log])
        return hs.fit(lm(), TEXT, rule="bptt", **kept, **{**QUICK, "steps": steps})

    go(3, False)
    check_steps = [int(row["step"]) for row in rows_of(tmp_path / "run.csv")]
    go(6, "changed")
    assert check_steps == [1, 2, 3]
    assert [int(row["step"]) for row in rows_of(tmp_path / "run.csv")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_has_every_number(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = hs.fit(lm(), TEXT, rule="hbll", callbacks=[hs.callbacks.TensorBoard(tmp_path / "t")], **VALIDATED, **QUICK)
    events = reader.EventAccumulator(str(tmp_path / "t"))
    events.Reload()

    def scalars(tag):
        return [(one.step, one.value) for one in events.Scalars(tag)]

    assert scalars("train/loss") == [(s, pytest.approx(v)) for s, v in zip(run["step"], run["loss"], strict=True)]
    assert scalars("validation/loss") == [
        (s, pytest.approx(v)) for s, v in zip(run["val_step"], run["val_loss"], strict=True)
    ]
    assert "train/sweeps" in events.Tags()["scalars"] and "train/step" not in events.Tags()["scalars"]


def test_the_best_model_is_on_disk_at_every_moment(tmp_path):
    file, values, kept = tmp_path / "best", iter([3.0, 1.0, 2.0]), {}

    class Fake:
        def on_validation(self, run, step):
            run.history["val_loss"][-1] = next(values)
            kept[step] = {k: v.clone() for k, v in run.model.state_dict().items()}

    best = hs.callbacks.BestCheckpoint(file)
    hs.fit(lm(), TEXT, rule="bptt", callbacks=[Fake(), best], **VALIDATED, **QUICK)
    assert (best.step, best.best) == (4, 1.0)
    saved = hs.load(file).state_dict()
    assert all(torch.equal(v, kept[4][k]) for k, v in saved.items()) and not torch.equal(
        saved["readout.weight"], kept[6]["readout.weight"]
    )
    again = hs.callbacks.BestCheckpoint(file)
    again.load_state_dict(best.state_dict())
    worse = hs.History(lm(), {}, {})
    worse.add(val_loss=1.5, val_step=8)
    before = file.read_bytes()
    again.on_validation(worse, 8)
    assert file.read_bytes() == before


def test_a_higher_accuracy_is_better_and_a_wrong_name_is_said(tmp_path):
    best, run = hs.callbacks.BestCheckpoint(tmp_path / "b", monitor="val_accuracy"), hs.History(lm(), {}, {})
    for step, accuracy in enumerate([0.1, 0.5, 0.3], 1):
        run.add(val_accuracy=accuracy, val_step=step)
        best.on_validation(run, step)
    assert (best.step, best.best) == (2, 0.5)
    best = hs.callbacks.BestCheckpoint(tmp_path / "b", monitor="val_f1", mode="max")
    with pytest.raises(hs.InputError, match="monitor: got 'val_f1'; expected one of"):
        best.on_validation(run, 4)
    with pytest.raises(hs.InputError, match="validation"):
        hs.fit(lm(), TEXT, callbacks=[hs.callbacks.BestCheckpoint(tmp_path / "b")], **QUICK)
    for make in (hs.callbacks.CSVLogger, hs.callbacks.BestCheckpoint, hs.callbacks.TensorBoard):
        with pytest.raises(hs.InputError, match="path: got int; expected a path"):
            make(3)


@pytest.mark.parametrize(
    "package,extra,call",
    [
        ("pandas", "frames", lambda: hs.History(None, {}, {}).to_frame()),
        ("tensorboard", "tensorboard", lambda: hs.callbacks.TensorBoard("t")),
    ],
)
def test_an_absent_package_is_named_with_what_installs_it(package, extra, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, .*pip install 'hbll_seq\[{extra}\]'"):
        call()


def test_a_validation_is_in_the_file_when_the_update_was_written_already(tmp_path):
    file = tmp_path / "run.csv"

    class Watch:
        def on_validation(self, run, step):
            check(rows_of(file), run)

    for every in (1, 2):
        logger = hs.callbacks.CSVLogger(file, every=every)
        run = hs.fit(lm(), TEXT, rule="bptt", callbacks=[logger, Watch()], **VALIDATED, **QUICK)
        check(rows_of(file), run)


def test_metrics_of_a_part_of_a_run_stay_in_their_rows(tmp_path):
    kept = dict(rule="bptt", checkpoint=tmp_path / "c", validation=0.2, validate_every=1)

    def go(steps, **options):
        return hs.fit(lm(), TEXT, **kept, **options, **{**QUICK, "steps": steps})

    go(2)
    run = go(4, resume="changed", metrics={"half": lambda out, y: 0.5})
    assert run["val_half"][2:] == [0.5, 0.5] and all(math.isnan(v) for v in run["val_half"][:2])
    columns = Columns(go(5, resume="changed").history).as_dict()
    assert columns["val_half"][2:] == [0.5, 0.5, None]
    sparse = {"step": [1, 2, 3, 4], "val_step": [2, 4], "val_loss": [2.0, 1.0], "val_half": [0.5]}
    assert Columns(sparse).as_dict()["val_half"] == [None, 0.5, None, None]


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: hs.callbacks.EarlyStopping(**o),
        lambda **o: hs.callbacks.BestCheckpoint("b", **o),
    ],
)
def test_what_is_better_is_known_or_said(make):
    signs = {
        "val_loss": 1,
        "loss": 1,
        "val_perplexity": 1,
        "val_bits_per_byte": 1,
        "val_error_rate": 1,
        "val_accuracy": -1,
    }
    for monitor, sign in signs.items():
        assert make(monitor=monitor).sign == sign
    assert make(monitor="val_f1", mode="max").sign == -1 and make(monitor="val_accuracy", mode="min").sign == 1
    for options, says in [
        ({"monitor": "val_f1"}, "mode: got 'auto' for 'val_f1'; expected 'min' or 'max'"),
        ({"mode": "most"}, "mode: got 'most'"), ({"monitor": 3}, "monitor: got int"),
    ]:  # fmt: skip
        with pytest.raises(hs.InputError, match=says):
            make(**options)


def test_a_figure_of_validations_is_found_without_its_prefix(tmp_path):
    run = hs.History(lm(), {}, {})
    run.history.update(val_accuracy=[0.5], loss=[3.0], val_loss=[1.0])
    best = hs.callbacks.BestCheckpoint(tmp_path / "b", monitor="accuracy")
    best.on_validation(run, 1)
    assert best.best == 0.5 and (tmp_path / "b").exists()
    assert latest(run, "loss") == 3.0, "of training where it has the name"
