"""The right parent's message, inverted through a module: the posterior of a node between its two parents.

Node n has the forward message of its left parent, with mean a = f_n(z_i), and the right parent's evidence with
cost C(z) = -log p(z_j | z) in nats. Gaussian nodes of variance s^2: C(z) = |f_j(z) - z_j|^2 / (2 s^2) and the
posterior mean minimises |z - a|^2 / (2 s^2) + C(z). One Taylor step from a goes **down** the cost,

    z = a - t g,   g = dC/dz at a,

and for a linear module with orthonormal weights t = s^2 / 2 is exact (paper, section 1; its printed sign goes up). With
large weights a fixed t overshoots, so t is measured: C along -g, looked at once more at t0 = s^2 / 2, is
modelled as a parabola of curvature c, and t = |g|^2 / (|g|^2 / s^2 + c) minimises the sum. That is the Cauchy
step of a quadratic cost: exact where the module is linear, never beyond s^2.

Bernoulli nodes (z a vector of probabilities): natural parameters add, so logit z = logit a - g. Exact where the
cost is linear in z.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Cost = Callable[[Tensor], Tensor]  # states (m, B, ...) -> cost (m, B), nats
LIMIT = 4.0  # a message moves a unit's log-odds by at most this
EDGE = 1e-6


def gaussian_posterior(a: Tensor, cost: Cost, variance: float = 1.0, step: float | None = None) -> Tensor:
    """Posterior mean of Gaussian nodes.

    Args:
        a: `(m, B, ...)` forward means, no gradient needed.
        cost: see the module docstring; every row's own.
        variance: s^2.
        step: a fixed t / s^2 in 0..1; None measures it (one more evaluation of the cost). 0 leaves a.

    Returns:
        `(m, B, ...)`, without gradient.
    """
    if step == 0:
        return a.detach()
    here, g = _slope(a, cost)
    if step is not None:
        return a.detach() - step * variance * g
    first = variance / 2
    with torch.no_grad():
        there = cost(a - first * g)  # (m, B)
        square = g.flatten(2).square().sum(-1)
        curvature = (2 * (there - here + first * square) / first**2).clamp(min=0)
        t = square / (square / variance + curvature).clamp(min=1e-30)
        return a - t.view(*t.shape, *[1] * (a.ndim - 2)) * g


def bernoulli_posterior(a: Tensor, cost: Cost, step: float | None = None) -> Tensor:
    """Posterior probabilities of Bernoulli nodes, from forward probabilities `a`; `step` weighs the message."""
    if step == 0:
        return a.detach()
    g = _slope(a, cost)[1] * (1.0 if step is None else step)
    with torch.no_grad():
        return torch.sigmoid(torch.logit(a, EDGE) - g.clamp(-LIMIT, LIMIT))


def gaussian_mismatch(predicted: Tensor, target: Tensor, variance: float | Tensor = 1.0) -> Tensor:
    """`|predicted - target|^2 / (2 s^2)` over everything but the first two axes, `(m, B)`: a KL of equal variances.

    `variance` is s^2, a number or `(m, B)`.
    """
    return (predicted - target).flatten(2).square().sum(-1) / (2 * variance)


def bernoulli_mismatch(predicted: Tensor, target: Tensor) -> Tensor:
    """KL(target || predicted) of vectors of probabilities, summed, `(m, B)`."""
    p, q = predicted.clamp(EDGE, 1 - EDGE), target.clamp(EDGE, 1 - EDGE)
    entropy = functional.binary_cross_entropy(q, q, reduction="none")
    return (functional.binary_cross_entropy(p, q, reduction="none") - entropy).flatten(2).sum(-1)


def _slope(a: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
    """Cost `(m, B)` and its gradient at `a`, both without graph."""
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        here = cost(leaf)
        (g,) = torch.autograd.grad(here.sum(), leaf)
    return here.detach(), g
