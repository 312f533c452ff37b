"""What a run recorded can be kept, read back, looked at and drawn."""

import json
import math

import pytest
import torch
from runs import QUICK, TEXT, lm

import hbll_seq as hs


def test_history_json_round_trip_and_views(tmp_path):
    whole = dict(discount=1.0)  # credit whole from the start: the gradient is near BPTT's at every step
    run = hs.fit(lm(), TEXT, rule="hbll", validation=0.2, measure_cosine=3, record_every=2, **QUICK, **whole)
    again = hs.History.from_json(run.to_json(tmp_path / "h.json"))
    assert again.history == run.history and again.config == run.config and (tmp_path / "h.json").exists()
    assert min(run.history["gradient_cosine"]) > 0.99 and run.history["cosine_step"] == [1, 4]
    assert run.history["block_step"] == [1, 3, 5, 6] and len(run.history["block_loss"][0]) == 3
    assert "gradient cosine" in repr(run) and "<table>" in run._repr_html_()


def test_every_list_of_a_run_is_as_long_as_it_says():
    run = hs.fit(lm(), TEXT, rule="hbll", validation=0.2, validate_every=4, **QUICK)
    h = run.history
    assert h["step"] == [1, 2, 3, 4, 5, 6] and h["val_step"] == [4, 6]
    for name in ("loss", "lr", "grad_norm", "seconds", "sweeps", "inconsistency", "depth"):
        assert len(h[name]) == 6 and all(isinstance(v, float) for v in h[name]), name
    assert len(h["val_loss"]) == len(h["val_accuracy"]) == 2 and h["seconds"] == sorted(h["seconds"])
    assert h["discount"] == pytest.approx([i / 6 for i in range(6)])  # targets at every step: credit grows
    assert h["lr"] == pytest.approx([4e-3 * (1 - i / 6) for i in range(6)])
    assert run.config["rule"] == "hbll" and run.config["objective"] == "cross_entropy" and run.config["steps"] == 6
    assert run.versions["torch"] == torch.__version__ and run.versions["threads"] == 1 and run.model is not None


def test_json_is_strict_and_infinities_do_not_break_it(tmp_path):
    run = hs.History(None, {"clip": math.inf}, {})
    run.add(loss=math.nan, block_loss=[1.0, math.nan])
    text = run.to_json(tmp_path / "h.json")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = hs.History.from_json(tmp_path / "h.json")
    assert math.isnan(again.history["loss"][0]) and again.history["block_loss"][0][0] == 1.0
    assert again.stopped_reason == "finished" and again.to_json() == text


def test_a_run_without_a_step_can_be_looked_at():
    class Never:
        def on_fit_begin(self, run):
            return True

    run = hs.fit(lm(), TEXT, rule="bptt", callbacks=[Never()], **QUICK)
    assert run.stopped_reason == "callback" and run.history["loss"] == []
    assert "steps" in repr(run) and run.plot().get_xlabel() == "training step"


def test_the_notebook_view_escapes_what_a_user_named():
    run = hs.History(None, {"rule": "<script>"}, {})
    assert "<script>" not in run._repr_html_() and "&lt;script&gt;" in run._repr_html_()


def test_plot_draws_on_the_axes_it_is_given():
    import matplotlib.pyplot as plt

    run = hs.fit(lm(), TEXT, rule="bptt", validation=0.2, **QUICK)
    figure, (left, right) = plt.subplots(1, 2)
    assert run.plot(ax=right, label="mine") is right and not left.lines
    curve = {line.get_label(): line for line in right.lines}
    assert list(curve["mine: held out"].get_ydata()) == run.history["val_loss"]
    assert list(curve["mine: training"].get_xdata()) == run.history["step"]
    plt.close("all")


def test_the_best_validation_is_shown_although_the_first_was_not_a_number():
    run = hs.History(None, {}, {})
    for step, loss in ((1, math.nan), (2, 1.0), (3, 2.0)):
        run.add(val_step=step, val_loss=loss)
    assert dict(run.table())["held-out loss"] == "2.0000 (best 1.0000 at step 2)"
