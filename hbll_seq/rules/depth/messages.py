"""States and feedback messages over depth, all modules at once: two fixed points, solved as those over time.

States solve z_n = f_n(z_{n-1}), messages l_n = h_n + g_{n+1} J_{n+1}^T l_{n+1} with the gradient h_n of node n's own
head, a discount g and the Jacobian J of a module (docs/method.md#layered-networks). A module is modelled as c times the
identity, the *carry*: 1 where it is residual and does little. One pass over all modules at once shows how far an
iterate is from solving its equations, the gap. The carry says what closing all gaps changes in the nodes behind:

    z'_n - z_n = gap_n + c_n (z'_{n-1} - z_{n-1})        l'_n - l_n = gap_n + g_{n+1} c_{n+1} (l'_{n+1} - l_{n+1})

Scalars from node to node make this scan one product with a triangular matrix. `Mixing` then takes the least-squares
combination of all passes so far. The gap is measured, never extrapolated: whatever carry and mixing do, no iterate
counts as solved whose own gap is above the tolerance.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.engine.effort import Effort
from hbll_seq.engine.solve import WORST
from hbll_seq.rules.depth.bank import Bank
from hbll_seq.rules.depth.mixing import Mixing
from hbll_seq.rules.depth.rolled import Rolled, at_once


class Solved(NamedTuple):
    """An unknown of every node, as far as it was solved.

    Attributes:
        values: `(M, B, ...)`: the inputs of the modules, or the messages on their outputs.
        residuals: relative squared gap of every iterate.
        converged: the last of them is within the tolerance.
    """

    values: Tensor
    residuals: list[float]
    converged: bool

    @property
    def iterations(self) -> int:
        """Sweeps, or corrections."""
        return len(self.residuals) - 1


def triangle(factors: Tensor) -> Tensor:
    """Return products of factors `(M, M)`: entry (n, j) is the share of j's change that reaches n < j.

    Args:
        factors: `(M - 1,)`, factor k on the way from node k + 1 to node k (from 0). The diagonal is 1.
    """
    m = len(factors) + 1
    steps = torch.cat([factors.new_ones(1), factors]).expand(m, m).clone()
    later = torch.ones_like(steps).triu(1)
    return torch.where(later > 0, steps, torch.ones_like(steps)).cumprod(1).triu()


def solve_messages(rolled: Rolled, heads: Tensor, discount: Tensor, carry: Tensor, effort: Effort) -> Solved:
    """Solve for the messages by corrections; each is one vector-Jacobian product of all modules.

    The first guess is the heads' gradients, carried: that of the last head alone where the discount is 1.

    Args:
        rolled: all modules on their states.
        heads: `(M, B, ...)` h_n, weighted.
        discount: `(M - 1,)` g of nodes 2..M.
        carry: `(M - 1,)` c of nodes 2..M.
        effort: `most` corrections, their tolerance; `fixed` makes them all.
    """
    reach = triangle(discount * carry)
    shape = (-1, *[1] * (heads.ndim - 1))
    value, mixing, residuals = torch.tensordot(reach, heads, 1), Mixing(), list[float]()
    while True:
        arrived = discount.view(shape) * rolled.pull(value)[1:]
        gap = torch.cat([heads[:-1] + arrived, heads[-1:]]) - value
        residuals.append(_ratio(gap, value))
        if _done(residuals, effort):
            return Solved(value, residuals, residuals[-1] <= effort.tolerance)
        value = mixing(value, torch.tensordot(reach, gap, 1))


def solve_states(bank: Bank, start: Tensor, carry: Tensor, effort: Effort) -> tuple[Rolled | None, Solved]:
    """Solve for the states by sweeps; each is one call of all modules.

    The first guess is the first module's output at every node.

    Args:
        bank: the modules.
        start: `(B, ...)` z_0, a constant.
        carry: `(M - 1,)` c of nodes 2..M.
        effort: `most` sweeps, their tolerance; `least` of them keep no graph.

    Returns:
        The last call of all modules, with its graphs; None if the sweeps stopped far from the tolerance.
    """
    with torch.no_grad():
        first = bank([1], start.unsqueeze(0))
    m = len(carry) + 1
    reach = triangle(carry).T
    state, mixing, residuals = first.expand(m, *first.shape[1:]), Mixing(), list[float]()
    while True:
        inputs = torch.cat([start.unsqueeze(0), state[:-1]])
        with torch.set_grad_enabled(len(residuals) >= effort.least):
            rolled = at_once(bank, inputs)
        out = rolled.outputs[0].detach()
        gap = out - state
        varied = (out - out.mean(1, keepdim=True)).square().mean().clamp(min=1e-30)
        each = gap.reshape(m, -1).square().mean(1) / varied
        residuals.append(float(torch.maximum(each.mean(), WORST * each.max())))
        if _done(residuals, effort):
            solved = Solved(inputs, residuals, residuals[-1] <= effort.tolerance)
            if not (solved.converged or effort.fixed):
                return None, solved
            return (rolled if rolled.outputs[0].requires_grad else at_once(bank, inputs)), solved
        state = mixing(state, torch.tensordot(reach, gap, 1))


def _done(residuals: list[float], effort: Effort) -> bool:
    """Whether to stop: solved, at the end of the effort, or not finite.

    No rate is extrapolated, as it is over time: with few nodes the last iterations are much better than the first.
    """
    solved = not effort.fixed and residuals[-1] <= effort.tolerance
    return solved or len(residuals) > effort.most or not math.isfinite(residuals[-1])


def _ratio(gap: Tensor, value: Tensor) -> float:
    return float(gap.square().sum() / value.square().sum().clamp(min=1e-30))
