"""Secants: the rolled states come out as rolled, the others as a linear map would have them."""

import torch

from hbll_seq.attribution.secant import choose, secants

M, P, B, S = 2, 9, 3, 6


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_changes_in_the_span_follow_a_linear_map():
    """Small changes, all combinations of three directions: five of them rolled give all nine."""
    changes = 1e-4 * torch.einsum("mpbk,mbks->mpbs", draw(M, P, B, 3), draw(M, B, 3, S, seed=1))
    linear, start = draw(S, S, seed=2), draw(M, 1, B, S, seed=3)
    found = secants(changes, torch.ones(S).double(), 5)
    predicted = found.predict(start @ linear, found.pick(start + changes) @ linear)
    torch.testing.assert_close(predicted, (start + changes) @ linear, rtol=0, atol=1e-7)
    assert found.rest.abs().max() < 1e-3 * changes.abs().max()


def test_what_the_combination_leaves_is_the_rest():
    for size in (0.1, 1.0, 10.0):  # of nearly none to nearly all, the base is another rolled one
        changes = size * draw(M, P, B, S)
        found = secants(changes, torch.full((S,), 0.5).double(), 4)
        predicted = found.predict(torch.zeros(M, 1, B, S).double(), found.pick(changes))
        torch.testing.assert_close(predicted + found.rest, changes)


def test_what_is_near_a_rolled_state_follows_that_one():
    """Two states far apart that a step function keeps apart, and small changes about both: all come out right."""
    far = draw(1, 1, 1, S).mul(5)
    changes = torch.cat([far * (k % 2) + 1e-3 * draw(1, 1, 1, S, seed=k) for k in range(1, 10)], 1)

    def step(d):
        other = (d - far).norm(dim=-1, keepdim=True) < d.norm(dim=-1, keepdim=True)
        return torch.where(other, 7.0 + 0.5 * (d - far), 0.2 * d)

    found = secants(changes, torch.ones(S).double(), 5)
    true = torch.zeros(1, 1, 1, S).double()
    predicted = found.predict(step(true), step(found.pick(changes)))
    assert (predicted - step(changes)).abs().max() < 2e-3
    assert (found.base[0, ::2] > 0).float().mean() >= 0.8 and (found.base[0, 1::2] == 0).all()


def test_rolled_states_come_out_as_rolled():
    """Also with an axis of steps in front, as outputs have it."""
    found = secants(draw(M, P, B, S), torch.ones(S).double(), 4)
    for lead in ((), (5,)):
        rolled, predicted = draw(*lead, M, 4, B, 3), torch.zeros(*lead, M, P, B, 3).double()
        whole = found.complete(predicted, rolled)
        index = found.chosen.expand(*lead, M, 4, B, 3)
        assert torch.equal(whole.gather(-3, index), rolled)
        assert (whole == 0).all(-1).sum() == (P - 4) * whole[..., 0].numel() // P


def test_no_state_is_chosen_twice_and_the_largest_is_among_them():
    changes = draw(M, P, B, S)
    changes[:, 4] *= 10
    chosen = choose(changes, 5)[0][..., 0]
    assert (chosen.sort(1).values.diff(dim=1) > 0).all()
    assert (chosen == 4).any(1).all()


def test_rounding_does_not_choose():
    """Changes that differ in their last bits have the same states rolled."""
    for size in (1e-6, 1.0):
        changes = size * draw(8, 20, 16, S)
        noise = 1 + 1e-15 * draw(8, 20, 16, S, seed=1)
        for one, other in zip(choose(changes, 8), choose(changes * noise, 8), strict=True):
            assert torch.equal(one, other)
