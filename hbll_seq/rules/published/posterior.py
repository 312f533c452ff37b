"""The posterior of a node between its two parents in the tree of depth.

The left parent i sends the forward message: the node's mean a = f_n(z_i). The right parent j sends evidence: a state z
has the cost C(z) = -log p(z_j | z) in nats. For Gaussian nodes of variance s^2, C(z) = |f_j(z) - z_j|^2 / (2 s^2), and
the posterior mean minimises |z - a|^2 / (2 s^2) + C(z). One Taylor step from a goes **down** the cost:

    z = a - t g,   g = dC/dz at a

For a linear module with orthonormal weights t = s^2 / 2 is exact (section 1 of the paper; its printed sign goes up).
With large weights a fixed t overshoots, so t is measured. C is evaluated once more, at t0 = s^2 / 2 along -g; a
parabola of curvature c fits the two values and the slope; t = |g|^2 / (|g|^2 / s^2 + c) minimises the sum. That is the
Cauchy step of a quadratic cost: exact where the module is linear and orthonormal up to scale, and never beyond s^2.

For Bernoulli nodes z is a vector of probabilities. Natural parameters add, so logit z = logit a - g. This is exact
where the cost is linear in z.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Cost = Callable[[Tensor], Tensor]  # states (m, B, ...) -> cost (m, B), nats
LIMIT = 4.0  # a message moves a unit's log-odds by at most this
EDGE = 1e-6


def gaussian_posterior(a: Tensor, cost: Cost, variance: float = 1.0, step: float | None = None) -> Tensor:
    """Return the posterior mean of Gaussian nodes.

    Args:
        a: `(m, B, ...)` forward means, no gradient needed.
        cost: C, see the top of this module; the cost of a row depends on that row alone.
        variance: s^2.
        step: a fixed t / s^2 in 0..1; 0 returns a. None measures t, by one more evaluation of the cost.

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
    """Return posterior probabilities of Bernoulli nodes, from forward probabilities `a`; `step` weighs the message."""
    if step == 0:
        return a.detach()
    g = _slope(a, cost)[1] * (1.0 if step is None else step)
    with torch.no_grad():
        return torch.sigmoid(torch.logit(a, EDGE) - g.clamp(-LIMIT, LIMIT))


def gaussian_mismatch(predicted: Tensor, target: Tensor, variance: float | Tensor = 1.0) -> Tensor:
    """Return the KL divergence of Gaussians of equal variance, `|predicted - target|^2 / (2 s^2)`, `(m, B)`.

    The square is summed over all axes but the first two. `variance` is s^2, a number or `(m, B)`.
    """
    return (predicted - target).flatten(2).square().sum(-1) / (2 * variance)


def bernoulli_mismatch(predicted: Tensor, target: Tensor) -> Tensor:
    """Return KL(target || predicted) of vectors of probabilities, summed over all axes but the first two, `(m, B)`."""
    p, q = predicted.clamp(EDGE, 1 - EDGE), target.clamp(EDGE, 1 - EDGE)
    entropy = functional.binary_cross_entropy(q, q, reduction="none")
    return (functional.binary_cross_entropy(p, q, reduction="none") - entropy).flatten(2).sum(-1)


def _slope(a: Tensor, cost: Cost) -> tuple[Tensor, Tensor]:
    """Return the cost `(m, B)` and its gradient at `a`, both without graph."""
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        here = cost(leaf)
        (g,) = torch.autograd.grad(here.sum(), leaf)
    return here.detach(), g
