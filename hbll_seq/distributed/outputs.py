"""Outputs that every rank needs: those at single time steps, and whole sequences; differentiable.

A gradient on such an output comes from every rank. The sum over ranks goes to the rank that owns the output.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hbll_seq.distributed.group import Group


def at_steps(group: Group, out: Tensor, steps: Tensor) -> Tensor:
    """Return `(B, d)` outputs at one time step of each sequence, on every rank.

    Args:
        group: the ranks.
        out: `(B, T, d)` of this rank's span.
        steps: `(B,)` time steps on the CPU, counted from the span's first; those outside are on other ranks.
    """
    found: Tensor = _AtSteps.apply(out, group, steps)
    return found


class _AtSteps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, group: Group, steps: Tensor) -> Tensor:
        rows = ((steps >= 0) & (steps < out.shape[1])).nonzero().flatten()
        ctx.given = group, rows, steps[rows], out.shape
        found = out.new_zeros(len(out), out.shape[2])
        found[rows] = out[rows, steps[rows]]
        return group.sum(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        group, rows, steps, shape = ctx.given
        total = group.sum(grads[0].clone())
        dout = total.new_zeros(shape)
        dout[rows, steps] = total[rows]
        return dout, None, None


def gathered(group: Group, out: Tensor, spans: Sequence[int]) -> Tensor:
    """Return `(B, T, d)` of all spans on every rank, for a loss that is the same on every rank.

    Args:
        group: the ranks.
        out: `(B, T_r, d)` of this rank's span.
        spans: T_r of every rank.
    """
    found: Tensor = _Gathered.apply(out, group, spans)
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, group: Group, spans: Sequence[int]) -> Tensor:
        first = sum(spans[: group.rank])
        ctx.given = group.size, first, spans[group.rank]
        padded = torch.nn.functional.pad(out, (0, 0, 0, max(spans) - out.shape[1]))
        found = group.gather(padded)
        return torch.cat([one[:, :steps] for one, steps in zip(found.unbind(0), spans, strict=True)], 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        size, first, steps = ctx.given
        # the other ranks' gradients on this span are the same, as their losses are: nothing is sent
        return grads[0][:, first : first + steps] * size, None, None
