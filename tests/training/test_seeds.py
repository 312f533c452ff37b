"""What a run draws is a function of its seed, and leaves the global random state alone."""

import pytest
import torch
from runs import QUICK, RULES, TEXT, Dropping, classifier, lm, loader, weights

import hbll_seq as hs


@pytest.mark.parametrize("rule", RULES)
def test_same_seed_same_weights_and_global_state_untouched(rule):
    before = torch.random.get_rng_state()
    results = []
    for seed in (1, 1, 2):
        model = lm()
        hs.fit(model, TEXT, rule=rule, seed=seed, **QUICK)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_shuffling_loader_repeats_by_seed_and_leaves_the_global_state():
    results = []
    for seed in (1, 1, 2):
        torch.rand(seed * len(results))  # the order must not come from here
        before, model = torch.get_rng_state(), classifier()
        hs.fit(model, loader(), rule="bptt", steps=7, seed=seed, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_dropout_is_seeded_and_measuring_the_cosine_draws_nothing():
    results = []
    for options in ({}, {}, {"measure_cosine": 2}, {"seed": 1}):
        torch.manual_seed(0)
        model = hs.models.SequenceModel(5, 5, cell=Dropping(), task="next")
        before = torch.get_rng_state()
        run = hs.fit(model, TEXT, rule="bptt", **QUICK | options)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])
    # the same dropout in both gradients: BPTT against itself is exactly parallel
    run = hs.fit(model, TEXT, rule="bptt", measure_cosine=1, **QUICK)
    assert min(run.history["gradient_cosine"]) > 1 - 1e-5
