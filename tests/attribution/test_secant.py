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
    ends = (start + found.known) @ linear
    predicted = start @ linear + found.combine(ends - start @ linear)
    torch.testing.assert_close(predicted, (start + changes) @ linear, rtol=0, atol=1e-7)
    assert found.rest.abs().max() < 1e-3 * changes.abs().max()


def test_what_the_combination_leaves_is_the_rest():
    changes = draw(M, P, B, S)
    found = secants(changes, torch.full((S,), 0.5).double(), 4)
    torch.testing.assert_close(found.combine(found.known) + found.rest, changes)
    assert torch.equal(found.pick(changes), found.known)


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
    chosen = choose(changes, 5)
    assert (chosen.sort(1).values.diff(dim=1) > 0).all()
    assert (chosen == 4).any(1).all()
