"""Invariant 6: on a linear-Gaussian chain messages equal an independent smoother, and the tree factorises."""

from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbll_seq.errors import InputError
from hbll_seq.rules.published.gaussian_messages import (
    Gaussian,
    Transition,
    backward,
    compose,
    forward,
    gaussian,
    kl,
    node,
    posterior_mean,
    product,
    smooth,
)
from hbll_seq.tree import Tree


def chain(d, n, seed):
    rng = np.random.default_rng(seed)
    spd = lambda: (lambda m: m @ m.T + 0.3 * np.eye(d))(rng.normal(size=(d, d)) * 0.7)  # noqa: E731
    a = [rng.normal(size=(d, d)) * 0.6 for _ in range(n)]
    b, q = [rng.normal(size=d) for _ in range(n)], [spd() for _ in range(n)]
    y, r = [rng.normal(size=d) for _ in range(n + 1)], [spd() for _ in range(n + 1)]
    return a, b, q, y, r, rng.normal(size=d), spd()


def tensors(a, b, q, y, r, m, v):
    t = torch.as_tensor
    return gaussian(t(m), t(v)), [Transition(t(i), t(j), t(k)) for i, j, k in zip(a, b, q, strict=True)], [
        gaussian(t(i), t(j)) for i, j in zip(y, r, strict=True)]  # fmt: skip


def rts(a, b, q, y, r, m, v):
    """Kalman filter and Rauch-Tung-Striebel smoother in NumPy, in moments, sharing nothing with the package."""
    means, covs, pm, pv = [], [], [], []
    for i in range(len(y)):
        if i:
            m, v = a[i - 1] @ m + b[i - 1], a[i - 1] @ v @ a[i - 1].T + q[i - 1]
        pm.append(m), pv.append(v)
        gain = v @ np.linalg.inv(v + r[i])
        m, v = m + gain @ (y[i] - m), v - gain @ v
        means.append(m), covs.append(v)
    for i in range(len(y) - 2, -1, -1):
        g = covs[i] @ a[i].T @ np.linalg.inv(pv[i + 1])
        means[i] = means[i] + g @ (means[i + 1] - pm[i + 1])
        covs[i] = covs[i] + g @ (covs[i + 1] - pv[i + 1]) @ g.T
    return means, covs


def joint(a, b, q, m, v):
    """Mean and covariance of all states stacked."""
    d, n = len(m), len(a)
    mean, cov = [m], np.zeros(((n + 1) * d,) * 2)
    cov[:d, :d] = v
    for i in range(n):
        s, t = slice(0, (i + 1) * d), slice((i + 1) * d, (i + 2) * d)
        here = slice(i * d, (i + 1) * d)
        cov[t, s] = a[i] @ cov[here, s]
        cov[s, t] = cov[t, s].T
        cov[t, t] = a[i] @ cov[here, here] @ a[i].T + q[i]
        mean.append(a[i] @ mean[-1] + b[i])
    return np.concatenate(mean), cov


sizes = dict(d=st.integers(1, 4), n=st.integers(1, 20), seed=st.integers(0, 999))


@given(**sizes)
def test_messages_equal_the_rts_smoother(d, n, seed):
    parts = chain(d, n, seed)
    means, covs = rts(*parts)
    for got, m, v in zip(smooth(*tensors(*parts)), means, covs, strict=True):
        np.testing.assert_allclose(got.mean, m, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(got.covariance, v, rtol=1e-7, atol=1e-9)


@given(d=st.integers(1, 3), n=st.integers(1, 6), seed=st.integers(0, 999))
def test_messages_equal_conditioning_of_the_joint(d, n, seed):
    a, b, q, y, r, m, v = chain(d, n, seed)
    mean, cov = joint(a, b, q, m, v)
    noise = np.zeros_like(cov)
    for i in range(n + 1):
        noise[i * d : (i + 1) * d, i * d : (i + 1) * d] = r[i]
    gain = cov @ np.linalg.inv(cov + noise)
    mean, cov = mean + gain @ (np.concatenate(y) - mean), cov - gain @ cov
    for i, got in enumerate(smooth(*tensors(a, b, q, y, r, m, v))):
        at = slice(i * d, (i + 1) * d)
        np.testing.assert_allclose(got.mean, mean[at], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(got.covariance, cov[at, at], rtol=1e-7, atol=1e-9)


@given(d=st.integers(1, 3), n=st.integers(2, 11), seed=st.integers(0, 999))
def test_the_tree_factorises_the_posterior_between_the_ends(d, n, seed):
    """Theorem 1: the product of the nodes' conditionals is the joint of all inner states given both ends, for any n."""
    a, b, q, _, _, m, v = chain(d, n, seed)
    mean, cov = joint(a, b, q, m, v)
    _, transitions, _ = tensors(a, b, q, [m] * (n + 1), [v] * (n + 1), m, v)
    rng = np.random.default_rng(seed + 1)
    z = [rng.normal(size=d) for _ in range(n + 1)]
    log = lambda x, mu, s: -0.5 * ((x - mu) @ np.linalg.solve(s, x - mu) + np.linalg.slogdet(2 * np.pi * s)[1])  # noqa: E731
    nodes, tree = Tree(n, 1), 0.0
    for mid in range(1, n):
        i, j = nodes.parents(mid)
        halves = reduce(compose, transitions[i:mid]), reduce(compose, transitions[mid:j])
        left, right, offset, s = (t.numpy() for t in node(*halves))
        tree += log(z[mid], left @ z[i] + right @ z[j] + offset, s)
    ends = np.r_[0:d, n * d : (n + 1) * d]
    every = log(np.concatenate(z), mean, cov)
    given_ends = every - log(np.concatenate([z[0], z[n]]), mean[ends], cov[np.ix_(ends, ends)])
    assert tree == pytest.approx(given_ends, rel=1e-7, abs=1e-7)


@given(**sizes)
def test_composed_transitions_carry_messages_like_their_parts(d, n, seed):
    start, transitions, evidence = tensors(*chain(d, n, seed))
    whole = transitions[0]
    for transition in transitions[1:]:
        whole = compose(whole, transition)
    ahead, back = start, evidence[-1]
    for transition in transitions:
        ahead = forward(ahead, transition)
    for transition in reversed(transitions):
        back = backward(back, transition)
    torch.testing.assert_close(forward(start, whole).mean, ahead.mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(backward(evidence[-1], whole).precision, back.precision, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(backward(evidence[-1], whole).shift, back.shift, rtol=1e-7, atol=1e-9)


def test_posterior_mean_is_the_product_of_forward_and_feedback():
    """A feedback message linear at h has slope -lambda: shift -lambda, no precision."""
    h, lam, variance = torch.randn(5).double(), torch.randn(5).double(), 0.3
    ahead = gaussian(h, variance * torch.eye(5).double())
    both = product(ahead, Gaussian(torch.zeros(5, 5).double(), -lam))
    torch.testing.assert_close(both.mean, posterior_mean(h, lam, variance))
    torch.testing.assert_close(kl(both, ahead), variance * lam.square().sum() / 2)  # the credit of a boundary


def test_kl_against_the_closed_form_in_one_dimension():
    one, other = (
        gaussian(torch.tensor([1.0]), torch.tensor([[2.0]])),
        gaussian(torch.tensor([0.0]), torch.tensor([[3.0]])),
    )
    assert float(kl(one, other)) == pytest.approx(0.5 * (np.log(3 / 2) + 2 / 3 + 1 / 3 - 1), rel=1e-6)
    assert float(kl(one, one)) == pytest.approx(0, abs=1e-6)


def test_evidence_must_match_the_states():
    start, transitions, evidence = tensors(*chain(2, 3, 0))
    with pytest.raises(InputError, match="evidence: got 3 messages"):
        smooth(start, transitions, evidence[:-1])
