"""What a run goes back to, whenever it stops."""

import pytest
import torch
from torch import nn

from hbll_seq.training.last_good import LastGood


def update(weights, value, last_good=None, finite=True):
    """Move all weights to a value, as an optimiser does: in place."""
    if last_good is not None:
        last_good.begin()
    with torch.no_grad():
        for p in weights:
            p.fill_(value)
    if last_good is not None:
        last_good.end(finite=finite)


def values(weights):
    return [float(v) for p in weights for v in p.detach().flatten()]


@pytest.fixture
def weights():
    return [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))]


def test_before_any_update_it_goes_back_to_the_start(weights):
    last_good = LastGood(weights)
    update(weights, 9.0)
    last_good.undo_unfinished()  # nothing was begun
    assert values(weights) == [9, 9, 9]
    last_good.restore()
    assert values(weights) == [0, 0, 0]


def test_it_goes_back_to_the_weights_whose_loss_was_finite_not_to_those_they_became(weights):
    last_good = LastGood(weights)
    for value in (1.0, 2.0, 3.0):
        update(weights, value, last_good)  # the loss of update 3 was found at 2
    last_good.restore()
    assert values(weights) == [2, 2, 2]


def test_an_update_that_was_not_finite_does_not_count(weights):
    last_good = LastGood(weights)
    update(weights, 1.0, last_good)
    update(weights, 2.0, last_good)
    update(weights, torch.nan, last_good, finite=False)
    last_good.restore()
    assert values(weights) == [1, 1, 1]


@pytest.mark.parametrize("made", [0, 1, 2])
def test_an_unfinished_update_is_undone_and_a_finished_one_is_not(weights, made):
    last_good = LastGood(weights)
    for i in range(made):
        update(weights, i + 1.0, last_good)
    last_good.undo_unfinished()
    assert values(weights) == 3 * [made]
    last_good.begin()
    update(weights[:1], torch.inf)  # half of it
    last_good.undo_unfinished()
    assert values(weights) == 3 * [made]


def test_the_tensors_stay_the_users(weights):
    views = [p.detach() for p in weights]
    last_good = LastGood(iter(weights))
    assert last_good.weights == weights
    update(weights, 1.0, last_good)
    last_good.restore()
    update(weights, 5.0)  # what was put back is no alias of what is kept
    last_good.restore()
    assert values(views) == [0, 0, 0] and all(p.requires_grad and p.grad is None for p in weights)
