"""The right parent's message: sign, size and damping of the Taylor step, against closed forms written for the test."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, optimize
from scipy.special import expit, logit

from hbll_seq.rules.published.posterior import (
    bernoulli_mismatch,
    bernoulli_posterior,
    gaussian_mismatch,
    gaussian_posterior,
)


def problem(d, scale, seed, orthonormal):
    """A linear module W z + b with forward mean a and right parent's state z_j, of B = 5 rows."""
    r = np.random.default_rng(seed)
    w = r.normal(size=(d, d))
    w = scale * (linalg.qr(w)[0] if orthonormal else w / np.sqrt(d))
    return w, r.normal(size=d), r.normal(size=(5, d)), r.normal(size=(5, d))


def exact(w, b, a, target):
    """Mean of N(z; a, s^2) N(target; W z + b, s^2), row by row: the Kalman update, s^2 cancels."""
    gain = w.T @ linalg.inv(w @ w.T + np.eye(len(b)))
    return a + (target - a @ w.T - b) @ gain.T


def cost(w, b, target, variance):
    w, b, target = (torch.from_numpy(v) for v in (w, b, target))
    return lambda z: gaussian_mismatch(z @ w.T + b, target[None], variance)


def energy(w, b, a, target, z, variance):
    return (((z - a) ** 2).sum(1) + ((z @ w.T + b - target) ** 2).sum(1)) / (2 * variance)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.floats(0.05, 4.0), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 3.0]))
def test_orthonormal_modules_are_inverted_exactly(d, scale, seed, variance):
    """All of W's singular values alike: one measured step is the exact posterior mean, whatever their size."""
    w, b, a, target = problem(d, scale, seed, True)
    z = gaussian_posterior(torch.from_numpy(a)[None], cost(w, b, target, variance), variance)[0].numpy()
    np.testing.assert_allclose(z, exact(w, b, a, target), atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.floats(0.05, 6.0), st.integers(0, 10**6))
def test_the_step_goes_down_and_never_overshoots(d, scale, seed):
    w, b, a, target = problem(d, scale, seed, False)
    z = gaussian_posterior(torch.from_numpy(a)[None], cost(w, b, target, 1.0))[0].numpy()
    before, after = energy(w, b, a, target, a, 1.0), energy(w, b, a, target, z, 1.0)
    best = energy(w, b, a, target, exact(w, b, a, target), 1.0)
    assert (after <= before + 1e-9).all() and (after >= best - 1e-9).all()
    # the step taken is the best one along the gradient
    for row in range(5):
        direction = z[row] - a[row]
        line = optimize.minimize_scalar(
            lambda t, row=row, direction=direction: energy(
                w, b, a[row : row + 1], target[row : row + 1], a[row : row + 1] + t * direction, 1.0
            )[0]
        )
        assert line.fun >= after[row] - 1e-7 * (1 + after[row])


def test_the_printed_sign_and_the_undamped_step_fail():
    """Plus goes uphill; minus with the paper's fixed half overshoots where weights are large."""
    w, b, a, target = problem(4, 1.0, 0, True)
    half = gaussian_posterior(torch.from_numpy(a)[None], cost(w, b, target, 1.0), step=0.5)[0].numpy()
    np.testing.assert_allclose(half, exact(w, b, a, target), atol=1e-12)
    plus = 2 * a - half
    assert (energy(w, b, a, target, plus, 1.0) > energy(w, b, a, target, a, 1.0)).all()
    w, b, a, target = problem(4, 3.0, 0, True)
    fixed = gaussian_posterior(torch.from_numpy(a)[None], cost(w, b, target, 1.0), step=0.5)[0].numpy()
    assert (energy(w, b, a, target, fixed, 1.0) > energy(w, b, a, target, a, 1.0)).all()


def test_bernoulli_natural_parameters_add():
    """With a cost linear in z, the log-odds move by minus its slope: Bayes' rule for independent units."""
    r = np.random.default_rng(0)
    a, slope = r.uniform(0.05, 0.95, size=(3, 5)), r.uniform(-2, 2, size=5)
    z = bernoulli_posterior(torch.from_numpy(a)[None], lambda one: one @ torch.from_numpy(slope))[0].numpy()
    bayes = a * np.exp(-slope) / (a * np.exp(-slope) + 1 - a)
    np.testing.assert_allclose(z, bayes, rtol=1e-9)
    np.testing.assert_allclose(z, expit(logit(a) - slope), rtol=1e-9)


def test_mismatches_are_kullback_leibler_divergences():
    p, q = torch.tensor([[[0.2, 0.7]]]), torch.tensor([[[0.5, 0.6]]])
    expected = sum(b * np.log(b / a) + (1 - b) * np.log((1 - b) / (1 - a)) for a, b in ((0.2, 0.5), (0.7, 0.6)))
    assert float(bernoulli_mismatch(p, q)) == pytest.approx(expected, rel=1e-5)
    assert float(gaussian_mismatch(p, q, 0.5)) == pytest.approx(0.09 + 0.01, rel=1e-5)


def test_no_step_leaves_the_forward_mean():
    a = torch.rand(2, 3, 4)
    for posterior in (gaussian_posterior, bernoulli_posterior):
        assert torch.equal(posterior(a, lambda z: z.sum(-1), step=0.0), a)
