"""Boundary states and feedback messages: two fixed points over the blocks, solved by scans.

States (docs/method.md#solving-for-the-states-consistency-sweeps). The boundaries of the sequential
chain solve h_{i+1} = F_i(h_i).
With the blocks rolled from a guess h, e_i = F_i(h_i), and each block modelled as linear with the
diagonal carry G_i, the next guess solves

    h'_{i+1} = e_i + G_i (h'_i - h_i)

for all i at once by a prefix scan of d_{i+1} = (e_i - h_{i+1}) + G_i d_i. G = 0 is a Jacobi sweep; the
true Jacobian would be Newton's. Whatever G, block i is exact once i sweeps are done, and the fixed
point is the sequential rollout.

Feedback (docs/method.md#solving-for-the-messages-feedback-corrections). The gradient of the whole
loss on boundary i solves l_i = g_i + J_i^T l_{i+1}, where
q_i(l) = g_i + J_i^T l_{i+1} is the result of one backward pass inside block i. From a guess l the next one solves

    l'_i = q_i + G_i (l'_{i+1} - l_{i+1})

by a reverse scan. The first pass from l = 0 gives l_i = g_i + G_i l_{i+1}; each further pass is a feedback
correction, block-local, and the fixed point is the exact gradient of backpropagation through time.
With a discount gamma_i < 1 the message that enters block i is gamma_i l_{i+1}, here and in the scan.

The gaps e_i - h_{i+1} and q_i - l_i cost nothing extra. Like the step-size control of an ODE solver,
both loops continue until the residual meets a tolerance: the size of the gaps, or of what the next scan
would move, if that is more. Where dynamics do not forget, many small gaps in a row add up to a large
error, and the scan is what adds them up. A block whose residual grew in a
sweep falls back to Jacobi for the next one. If residuals fall too slowly to meet the tolerance in the
allowed iterations, a loop stops with `converged` False, and the caller goes through the sequence in
order. A fixed effort never stops early, nor do so few blocks that the allowed iterations are exact.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.engine.block_loss import BlockLoss, LossPass
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth
from hbll_seq.engine.effort import Effort
from hbll_seq.kernels.scan import prefix_scan, reverse_scan

WORST = 0.3  # weight of the worst boundary's gap beside the mean of all
MakeRoll = Callable[[Tensor, bool], BlockRoll]  # start (n, B, S), keep -> all blocks, rolled from there
Observe = Callable[[Tensor, Tensor, Tensor], None]


class States(NamedTuple):
    """The solved boundaries.

    Attributes:
        roll: the last roll of all blocks, with activations, from `start`.
        start: `(n, B, S)` state at each block's start.
        gap: `(n-1, B, S)` F_i(h_i) - h_{i+1}, zero after a sequence's end.
        residuals: relative squared size of the gaps, or of the next change of starts, before each sweep and at the end.
        sweeps: sweeps done.
        carry: `(n, B, M)` the cells' own, for the feedback: a carry calibrated on sweeps costs it corrections.
        fallbacks: fraction of blocks that fell back to Jacobi in the last sweep.
        converged: within the tolerance, or exact after as many sweeps as there are boundaries. If neither, and the
            effort was not fixed, `roll` may have no activations, and nothing may be learned from it.
    """

    roll: BlockRoll
    start: Tensor
    gap: Tensor
    residuals: list[float]
    sweeps: int
    carry: Tensor
    fallbacks: float
    converged: bool


class Feedback(NamedTuple):
    """The solved feedback messages.

    Attributes:
        messages: `(n+1, B, S)` gradient of the loss on every boundary; zero at the last.
        start: `(B, S)` gradient on the initial state.
        dx: `(K, n, B, D)` gradient on the inputs, or None.
        parameters: gradients of the cell's parameters.
        residuals: relative squared size of the gaps, or of the next correction, in each pass.
        corrections: passes beyond the two of every update.
        converged: within the tolerance, or exact after as many passes as there are boundaries.
        scored: the last pass over the loss, if it was computed group by group; None if its gradient was given.
    """

    messages: Tensor
    start: Tensor
    dx: Tensor | None
    parameters: list[Tensor | None]
    residuals: list[float]
    corrections: int
    converged: bool
    scored: LossPass | None


def _inconsistency(gap: Tensor, end: Tensor, valid: Tensor | None) -> float:
    """Return the mean square of the gaps, or `WORST` times the worst boundary's, relative to the variance of the
    states.

    If states do not forget, one wrong state shows as one gap: all later states are wrong without a gap, and a mean over
    many boundaries hides it. Only valid boundaries count.

    Args:
        gap: `(n-1, B, S)`, zero where not valid.
        end: `(n-1, B, S)` block ends.
        valid: `(n-1, B, 1)` 1.0 where the boundary lies inside its sequence; None if all do.
    """
    if not len(gap):
        return 0.0
    each = gap.square().mean(-1)  # (n-1, B)
    if valid is None:
        variance, mean = end.flatten(0, 1).var(0, correction=0).mean(), each.mean()
    else:
        rows = valid.sum().clamp(min=1)
        variance = ((end - (end * valid).sum((0, 1)) / rows).square() * valid).sum() / (rows * end.shape[-1])
        mean = each.sum() / rows
    return float(torch.maximum(mean, WORST * each.max()) / variance.clamp(min=1e-12))


def bounded(carry: Tensor, limit: float) -> Tensor:
    """Clip `carry` to [-limit, limit]; 0 (no model: Jacobi) where it is not a number.

    The product of many steps' carries overflows where weights have grown, infinity times 0 among them. With
    limit = 2^(100 / n) a product over n blocks is at most 2^100, and the scans stay finite in float32.
    """
    return carry.nan_to_num(0.0, posinf=limit, neginf=-limit).clamp(-limit, limit)


def solve_states(
    cell: Cell, make: MakeRoll, guess: Tensor, valid: Tensor | None, effort: Effort, *,
    depth: Depth, carry_of: Callable[[Tensor], Tensor], observe: Observe | None = None,
) -> States:  # fmt: skip
    """Sweep from `guess` until the boundaries agree with the blocks between them.

    Args:
        cell: the layer's cell (for its state layout and range).
        make: function that rolls all blocks from given starts.
        guess: `(n, B, S)`; row 0 is the given initial state and stays.
        valid: `(n-1, B, 1)`, or None if every boundary lies inside its sequence.
        effort: see `Effort`.
        depth: counter.
        carry_of: function from the cells' own carry of a roll to the carry to use, both `(n, B, M)`.
        observe: called after every sweep with the change of starts, the resulting change of ends,
            and the cells' own carry before it, all without block 0; it measures the carry.
    """
    h, sweeps = guess, 0
    residuals: list[float] = []
    before: Tensor | None = None  # each block's squared gap one sweep ago
    fallbacks = 0.0
    enough = h.shape[0] - 1  # sweeps after which every boundary is exact
    most = min(effort.most, enough)
    limit = 2.0 ** (100 / max(h.shape[0], 2))
    last, last_start, last_own = None, h, None
    while True:
        roll = make(h, sweeps >= min(effort.least, most))
        own = bounded(roll.carry, limit)
        carry = carry_of(own).clamp(-limit, limit)
        if observe is not None and last is not None and last_own is not None:
            observe(h[1:] - last_start[1:], (roll.end - last.end)[1:], last_own[1:])
        gap = roll.end[:-1] - h[1:]
        if valid is not None:
            gap = gap * valid
        size = gap.square().mean(-1, keepdim=True)  # (n-1, B, 1)
        if before is not None:
            worse = size > before
            fallbacks = float(worse.float().mean()) if worse.numel() else 0.0
            # row i of gap is the end of block i: its own linear model is to blame
            used = torch.cat([carry[:-1] * ~worse, carry[-1:]])
        else:
            used = carry
        before = size
        new_start = _next_start(cell, h, roll, gap, used)
        move = new_start[1:] - h[1:] if valid is None else (new_start[1:] - h[1:]) * valid
        residuals.append(max(_inconsistency(one, roll.end[:-1], valid) for one in (gap, move)))
        converged = residuals[-1] <= effort.tolerance or sweeps >= enough
        if (roll.kept and (sweeps >= most or converged)) or (most < enough and effort.hopeless(residuals, most)):
            return States(roll, h, gap, residuals, sweeps, own, fallbacks, converged)
        depth.levels += max(h.shape[0] - 1, 1).bit_length()
        roll.let_go()
        last, last_start, last_own = roll, h, own
        h = new_start
        sweeps += 1


def _next_start(cell: Cell, start: Tensor, roll: BlockRoll, gap: Tensor, carry: Tensor) -> Tensor:
    """Return the starts `(n, B, S)` of the next sweep: every block's end, changed by its moved start."""
    if not len(gap):
        return start
    m = cell.memory_size
    moved = prefix_scan(carry[:-1], gap[..., :m], torch.zeros_like(gap[0, :, :m]))  # (n, B, M)
    new_end = roll.end[:-1].clone()
    change = carry[:-1] * moved[:-1]
    new_end[..., :m] += change
    if roll.link is not None:
        new_end[..., m:] += roll.link[:-1] * change
    return torch.cat([start[:1], cell.clamp(new_end, start[0])])


def solve_feedback(
    cell: Cell, states: States, dout: Tensor | BlockLoss | None, dlast: Tensor | None, effort: Effort, *,
    extra: Tensor | None, depth: Depth, discount: float | Tensor = 1.0, inputs: bool = True,
) -> Feedback:  # fmt: skip
    """Correct the feedback messages until they agree with the blocks between them; the last pass gives the gradients.

    Args:
        cell: the layer's cell.
        states: solved boundaries.
        dout: `(K, n, B, d)` gradient of the prediction losses on the outputs, or the loss itself, scored group by group
            in every pass over the blocks.
        dlast: `(B, S)` gradient on the final state, or None.
        effort: `least` counts corrections.
        extra: `(n, B, S)` gradient of the pull at each block's end, or None; its credit travels with the messages.
        depth: counter.
        discount: gamma, a number or `(n, B, 1)`, on the message that enters a block at its end:
            l_i = g_i + gamma_i J_i^T l_{i+1}; at execution blocks.
        inputs: False if the gradient on the inputs is not wanted.
    """
    m = cell.memory_size
    n = states.start.shape[0]
    gamma = torch.as_tensor(discount).to(states.start).expand(n, states.start.shape[1], 1)
    local = not bool(gamma[:-1].any())  # nothing crosses
    roll, factor = states.roll, states.carry * gamma
    lam = torch.zeros_like(torch.cat([states.start, states.start[:1]]))  # (n+1, B, S)
    if dlast is not None:
        lam[n] = dlast
    residuals: list[float] = []
    passes = 0
    while True:
        final = n == 1 or local or passes > effort.least  # may be the last: ask for the gradients
        dend = torch.cat([lam[1:n] * gamma[:-1], lam[n:]])  # the gradient on the last state crosses no boundary
        if extra is not None:
            dend = dend + extra
        scored: LossPass | None = None
        if isinstance(dout, BlockLoss):
            with dout.new_pass() as scored:
                q, dx, parameters = roll.backward(scored, dend, gradients=final, inputs=inputs)  # q (n, B, S)
        else:
            q, dx, parameters = roll.backward(dout, dend, gradients=final, inputs=inputs)
        gap = q[1:] - lam[1:n]
        moved = _next_correction(gap, factor, roll.link, m)
        total = q[1:].square().sum().clamp(min=1e-30)
        residuals.append(max(float(one.square().sum() / total) for one in (gap, moved)))
        most = min(effort.most, n - 2) + 1
        converged = n == 1 or local or residuals[-1] <= effort.tolerance or passes >= n - 1
        if (final and (converged or passes >= most)) or (most < n - 1 and effort.hopeless(residuals, most)):
            return Feedback(lam, q[0], dx, parameters, residuals, max(passes - 1, 0), converged, scored)
        depth.levels += max(n - 1, 1).bit_length()
        lam = lam.clone()
        if n > 1:
            if roll.link is not None:
                lam[1:n, :, m:] = q[1:, :, m:]
            lam[1:n, :, :m] += moved
        passes += 1


def _next_correction(gap: Tensor, factor: Tensor, link: Tensor | None, m: int) -> Tensor:
    """Return what the gaps `(n-1, B, S)` of the messages move their first M values: `(n-1, B, M)`."""
    b = gap[..., :m]
    if link is not None:
        b = b.clone()
        b[:-1] += factor[1:-1] * link[1:-1] * gap[1:, :, m:]
    return reverse_scan(factor[1:-1], b[:-1], b[-1]) if len(gap) > 1 else b  # boundaries 1..n-1
