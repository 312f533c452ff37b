"""Gaussian messages by natural parameters, and the smoother they make on a linear-Gaussian Markov chain.

A Gaussian N(m, V) is kept as precision P = V^-1 and shift s = P m. A product of two messages adds both: the natural
parameters of the posterior are those of the forward message plus those of the feedback message. The posterior mean
of docs/method.md#the-probabilistic-reading follows: a forward message N(h, sigma^2) times a feedback message whose
logarithm has slope -lambda at h is, to first order, N(h - sigma^2 lambda, sigma^2).

On a Markov chain z_{i+1} = A_i z_i + b_i + N(0, Q_i) with evidence at every state all of this is exact. It equals the
Rauch-Tung-Striebel smoother and, by Theorem 1 of the paper, the tree's factorisation
p(z_1..z_{N-1} | ends) = prod p(z_mid | z_left, z_right). The tests compare these functions with both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.errors import InputError


class Gaussian(NamedTuple):
    """A Gaussian by natural parameters: `precision` `(..., d, d)` and `shift` `(..., d)`; zeros are no evidence."""

    precision: Tensor
    shift: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean `(..., d)`; the precision must be invertible."""
        return torch.linalg.solve(self.precision, self.shift)

    @property
    def covariance(self) -> Tensor:
        """Covariance `(..., d, d)`; the precision must be invertible."""
        return torch.linalg.inv(self.precision)


class Transition(NamedTuple):
    """A linear-Gaussian map z' = A z + b + N(0, Q): A, Q `(d, d)`, b `(d,)`."""

    a: Tensor
    b: Tensor
    q: Tensor


def gaussian(mean: Tensor, covariance: Tensor) -> Gaussian:
    """Make a Gaussian from its mean `(..., d)` and covariance `(..., d, d)`."""
    precision = torch.linalg.inv(covariance)
    return Gaussian(precision, (precision @ mean.unsqueeze(-1)).squeeze(-1))


def product(one: Gaussian, other: Gaussian) -> Gaussian:
    """Multiply two messages and normalise: natural parameters add."""
    return Gaussian(one.precision + other.precision, one.shift + other.shift)


def posterior_mean(h: Tensor, message: Tensor, variance: float | Tensor) -> Tensor:
    """Return the posterior mean from forward mean h, feedback message lambda (a gradient) and variance sigma^2.

    All elementwise, of one shape or broadcast to it.
    """
    return h - variance * message


def kl(one: Gaussian, other: Gaussian) -> Tensor:
    """Return KL(one || other) in nats, `(...)`."""
    d = one.shift.shape[-1]
    gap = (other.mean - one.mean).unsqueeze(-1)
    trace = (other.precision @ one.covariance).diagonal(dim1=-2, dim2=-1).sum(-1)
    distance = (gap.mT @ other.precision @ gap).squeeze(-1).squeeze(-1)
    return 0.5 * (trace + distance - d + torch.logdet(one.precision) - torch.logdet(other.precision))


def compose(first: Transition, then: Transition) -> Transition:
    """Compose two transitions, `then` after `first`; associative, so blocks and nodes compose in any order."""
    return Transition(then.a @ first.a, then.a @ first.b + then.b, then.a @ first.q @ then.a.mT + then.q)


def forward(message: Gaussian, transition: Transition) -> Gaussian:
    """Carry a forward message through a transition."""
    mean, cov = message.mean, message.covariance
    return gaussian(transition.a @ mean + transition.b, transition.a @ cov @ transition.a.mT + transition.q)


def backward(message: Gaussian, transition: Transition) -> Gaussian:
    """Carry a feedback message back through a transition: from evidence on z' to evidence on z.

    The integral of N(z'; A z + b, Q) with likelihood exp(-z' P z' / 2 + s z'). With W = P (I + Q P)^-1 it has
    precision A' W A and shift A' (I + P Q)^-1 (s - P b). P may be singular.
    """
    p, s = message
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    solve = torch.linalg.inv(eye + p @ transition.q)  # (I + P Q)^-1
    return Gaussian(transition.a.mT @ solve @ p @ transition.a, transition.a.mT @ solve @ (s - p @ transition.b))


def smooth(start: Gaussian, transitions: list[Transition], evidence: list[Gaussian]) -> list[Gaussian]:
    """Return the posterior of every state of a Markov chain, by forward and feedback messages.

    Args:
        start: prior of z_0.
        transitions: n of them.
        evidence: n+1 messages, one a state (zeros where there is none).

    Raises:
        InputError: `evidence` does not hold one message a state.
    """
    if len(evidence) != len(transitions) + 1:
        raise InputError("evidence", f"{len(evidence)} messages", f"{len(transitions) + 1}, one a state")
    ahead = [start]
    for transition, seen in zip(transitions, evidence, strict=False):
        ahead.append(forward(product(ahead[-1], seen), transition))
    back = Gaussian(torch.zeros_like(start.precision), torch.zeros_like(start.shift))
    result = [product(ahead[-1], evidence[-1])]
    for i in range(len(transitions) - 1, -1, -1):
        back = backward(product(evidence[i + 1], back), transitions[i])
        result.append(product(product(ahead[i], evidence[i]), back))
    return result[::-1]


def node(left: Transition, right: Transition) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return p(z_mid | z_left, z_right) at a node of the tree, from the transitions of its two halves.

    It is the product of the forward message from the left parent and the inverted one from the right.

    Returns:
        `(to_left, to_right, offset, covariance)`; the mean is to_left z_left + to_right z_right + offset.
    """
    inverse = right.a.mT @ torch.linalg.inv(right.q)
    precision = torch.linalg.inv(left.q) + inverse @ right.a
    covariance = torch.linalg.inv(precision)
    forward_gain = covariance @ torch.linalg.inv(left.q)
    backward_gain = covariance @ inverse
    return forward_gain @ left.a, backward_gain, forward_gain @ left.b - backward_gain @ right.b, covariance
