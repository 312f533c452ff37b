"""Callbacks are called in order, and may stop a run."""

import copy

import torch
from runs import QUICK, TEXT, lm

import hbll_seq as hs


def test_early_stopping_restores_the_best_weights():
    values = iter([3.0, 1.0, 2.0, 2.5, 2.6, 9.9])
    kept = {}

    class Fake:
        def on_validation(self, run, step):
            run.history["val_loss"][-1] = next(values)
            kept[step] = copy.deepcopy(run.model.state_dict())

    model = lm()
    stop = hs.callbacks.EarlyStopping(patience=2)
    run = hs.fit(model, TEXT, rule="bptt", validation=0.2, validate_every=1, callbacks=[Fake(), stop], **QUICK)
    assert run.stopped_reason == "early_stopping" and run.history["val_step"] == [1, 2, 3, 4]
    assert all(torch.equal(v, kept[2][k]) for k, v in model.state_dict().items())


def test_callbacks_are_called_in_order_and_callables_on_validation():
    calls = []
    watcher = type("W", (), {n: (lambda self, *a, n=n: calls.append(n)) for n in hs.callbacks.HOOKS})()
    hs.fit(
        lm(),
        TEXT,
        rule="bptt",
        validation=0.2,
        validate_every=2,
        callbacks=[watcher, lambda run, step: step == 4],
        **QUICK,
    )
    assert calls == ["on_fit_begin", "on_step_end", "on_step_end", "on_validation", "on_step_end", "on_step_end",
                     "on_validation", "on_fit_end"]  # fmt: skip
