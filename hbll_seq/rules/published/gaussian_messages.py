"""Gaussian messages by natural parameters, and the smoother they make on a linear-Gaussian chain.

A Gaussian N(m, V) is kept as precision P = V^-1 and shift s = P m. Multiplying two messages adds both: the
posterior's natural parameters are the forward message's plus the feedback message's. That is where the rule's
posterior mean comes from: a forward message N(h, sigma^2) times a feedback message whose log has the
slope -lambda at h is, to first order, N(h - sigma^2 lambda, sigma^2).

On a chain z_{i+1} = A_i z_i + b_i + N(0, Q_i) with evidence at every step everything is exact, and equals the
Rauch-Tung-Striebel smoother and, by Theorem 1 of the paper, the tree's factorisation
p(z_1..z_{N-1} | ends) = prod p(z_mid | z_left, z_right). The tests hold these functions to both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.errors import InputError


class Gaussian(NamedTuple):
    """A Gaussian by natural parameters: `precision` `(..., d, d)` and `shift` `(..., d)`; zeros say nothing."""

    precision: Tensor
    shift: Tensor

    @property
    def mean(self) -> Tensor:
        """`(..., d)`; the precision must be invertible."""
        return torch.linalg.solve(self.precision, self.shift)

    @property
    def covariance(self) -> Tensor:
        """`(..., d, d)`."""
        return torch.linalg.inv(self.precision)


class Jump(NamedTuple):
    """A linear-Gaussian map z' = A z + b + N(0, Q): A, Q `(d, d)`, b `(d,)`."""

    a: Tensor
    b: Tensor
    q: Tensor


def gaussian(mean: Tensor, covariance: Tensor) -> Gaussian:
    """From mean `(..., d)` and covariance `(..., d, d)`."""
    precision = torch.linalg.inv(covariance)
    return Gaussian(precision, (precision @ mean.unsqueeze(-1)).squeeze(-1))


def product(one: Gaussian, other: Gaussian) -> Gaussian:
    """The normalised product of two messages: natural parameters add."""
    return Gaussian(one.precision + other.precision, one.shift + other.shift)


def posterior_mean(h: Tensor, message: Tensor, variance: float | Tensor) -> Tensor:
    """Mean of the posterior: forward mean `h`, feedback message (gradient) `message`, variance sigma^2, elementwise."""
    return h - variance * message


def kl(one: Gaussian, other: Gaussian) -> Tensor:
    """KL(one || other) in nats, `(...)`."""
    d = one.shift.shape[-1]
    gap = (other.mean - one.mean).unsqueeze(-1)
    trace = (other.precision @ one.covariance).diagonal(dim1=-2, dim2=-1).sum(-1)
    distance = (gap.mT @ other.precision @ gap).squeeze(-1).squeeze(-1)
    return 0.5 * (trace + distance - d + torch.logdet(one.precision) - torch.logdet(other.precision))


def compose(first: Jump, then: Jump) -> Jump:
    """The map `then` after `first`; associative, so blocks and nodes compose in any order."""
    return Jump(then.a @ first.a, then.a @ first.b + then.b, then.a @ first.q @ then.a.mT + then.q)


def forward(message: Gaussian, jump: Jump) -> Gaussian:
    """The message after a jump."""
    mean, cov = message.mean, message.covariance
    return gaussian(jump.a @ mean + jump.b, jump.a @ cov @ jump.a.mT + jump.q)


def backward(message: Gaussian, jump: Jump) -> Gaussian:
    """The feedback message before a jump: what `message` on z' says about z; it may say nothing in some directions.

    integral of N(z'; A z + b, Q) with likelihood exp(-z' P z' / 2 + s z'): with W = P (I + Q P)^-1,
    precision A' W A and shift A' (I + P Q)^-1 (s - P b).
    """
    p, s = message
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    solve = torch.linalg.inv(eye + p @ jump.q)  # (I + P Q)^-1
    return Gaussian(jump.a.mT @ solve @ p @ jump.a, jump.a.mT @ solve @ (s - p @ jump.b))


def smooth(start: Gaussian, jumps: list[Jump], evidence: list[Gaussian]) -> list[Gaussian]:
    """Posterior of every state of a chain, by forward and feedback messages.

    Args:
        start: prior of z_0.
        jumps: n maps.
        evidence: n+1 messages, one a state (zeros where there is none).

    Raises:
        InputError: not one piece of evidence a state.
    """
    if len(evidence) != len(jumps) + 1:
        raise InputError("evidence", f"{len(evidence)} messages", f"{len(jumps) + 1}, one a state")
    ahead = [start]
    for jump, seen in zip(jumps, evidence, strict=False):
        ahead.append(forward(product(ahead[-1], seen), jump))
    back = Gaussian(torch.zeros_like(start.precision), torch.zeros_like(start.shift))
    result = [product(ahead[-1], evidence[-1])]
    for i in range(len(jumps) - 1, -1, -1):
        back = backward(product(evidence[i + 1], back), jumps[i])
        result.append(product(product(ahead[i], evidence[i]), back))
    return result[::-1]


def node(left: Jump, right: Jump) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A node of the tree: p(z_mid | z_left, z_right) from the jumps of its two halves.

    Returns:
        `(to_left, to_right, offset, covariance)`: the mean is to_left z_left + to_right z_right + offset.
        It is the product of the forward message from the left parent and the inverted one from the right.
    """
    inverse = right.a.mT @ torch.linalg.inv(right.q)
    precision = torch.linalg.inv(left.q) + inverse @ right.a
    covariance = torch.linalg.inv(precision)
    forward_gain = covariance @ torch.linalg.inv(left.q)
    backward_gain = covariance @ inverse
    return forward_gain @ left.a, backward_gain, forward_gain @ left.b - backward_gain @ right.b, covariance
