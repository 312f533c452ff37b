"""What `fit` cannot use is named before any weight changes."""

import pytest
import torch
from runs import QUICK, TEXT, lm, weights

import hbll_seq as hs


@pytest.mark.parametrize(
    "options,says",
    [
        (dict(rule="backprop"), r"rule: got 'backprop'; expected for a recurrent model one of"),
        (dict(sweep=2), "sweep: got an option that neither fit nor the rule has"),
        (dict(rule="bptt", sweeps=2), "sweeps: got an option"),
        (dict(sweeps=-1), "sweeps: got -1"),
        (dict(block_size=0), "block_size: got 0"),
        (dict(pull="hard"), "pull: got 'hard'"),
        (dict(carry="mine"), "carry: got 'mine'"),
        (dict(steps=0), "steps: got 0"),
        (dict(steps=3, epochs=1), "epochs: got both"),
        (dict(lr=0.0), "lr: got 0.0"),
        (dict(batch_size=0), "batch_size: got 0"),
        (dict(clip=-1.0), "clip: got -1.0"),
        (dict(optimizer="adagrad2"), "optimizer: got 'adagrad2'"),
        (dict(schedule="step"), "schedule: got 'step'"),
        (dict(warmup=6), "warmup: got 6"),
        (dict(validation=1.5), "validation: got 1.5"),
        (dict(validation=TEXT + 3), "validation: x: got symbols"),
        (dict(device="cuda:7"), "device: got 'cuda:7'"),
        (dict(callbacks=[3]), "callbacks: got int"),
        (dict(resume=True), "resume: got True without a checkpoint"),
        (dict(checkpoint="/no/such/folder/run"), "checkpoint: got '/no/such/folder/run', whose folder"),
        (dict(clip="hard"), "clip: got 'hard'"),
        (dict(weight_decay=-1.0), "weight_decay: got -1.0"),
        (dict(measure_cosine=0), "measure_cosine: got 0"),
        (dict(seed=2**60), "seed: got 1152921504606846976"),
        (dict(rule=3), "rule: got int"),
        (dict(device=3.5), "device: got 3.5"),
        (dict(validation=0.001), "validation: got 0.001 of a text of 400 symbols"),
        (dict(callbacks=[hs.callbacks.EarlyStopping()]), "validation: got None, and a callback that waits"),
        (dict(callbacks=[lambda run, step: None]), "validation: got None, and a callback that waits"),
    ],
)
def test_bad_arguments_are_named_before_any_weight_changes(options, says):
    model = lm()
    before = weights(model)
    with pytest.raises(hs.InputError, match=says):
        hs.fit(model, TEXT, **QUICK | options)
    assert torch.equal(weights(model), before)
