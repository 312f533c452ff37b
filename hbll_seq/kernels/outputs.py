"""The outputs of a cell with a recipe, without gradient: K time steps of N rows in compiled calls.

`roll.FusedRoll` prepares a backward. This keeps outputs only, and reads and writes batch first. It takes as many time
steps at a time as their projected inputs fit in `SLICE`; weights are packed once for all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hbll_seq.kernels import machine
from hbll_seq.kernels.buffers import give, take
from hbll_seq.kernels.packing import packed, padded, padded_weight
from hbll_seq.kernels.recipes import Recipe

SLICE = 1 << 22  # numbers of projected input at a time: sixteen megabytes


@torch.no_grad()
def outputs(
    recipe: Recipe, project: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor | None, bias: Tensor | None,
    start: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return outputs `(N, K, d)` and end `(N, S)`, float32 on the CPU.

    Args:
        recipe: the cell's formulas.
        project: function from x `(N, k, D)` to new projected inputs `(N, k, inputs * d)` with their bias; they become
            work buffers.
        x: `(N, K, D)`.
        weight: `(gates * d, d)` recurrent weights, or None.
        bias: `(gates * d,)`, or None for zero.
        start: `(N, S)`.
    """
    w, (n, k) = machine.target().width, x.shape[:2]
    d = start.shape[1] // recipe.parts
    units = -(-d // w) * w
    bias = start.new_zeros(recipe.gates * d) if bias is None else bias.detach()
    bias = padded(bias, recipe.gates, d, units)
    ready = None if weight is None else packed(padded_weight(weight, recipe.gates, d, units), w)
    states = start.new_empty(2, n, recipe.parts * units)
    states[0] = padded(start.detach(), recipe.parts, d, units)
    found = x.new_empty(n, k, d)
    size = max(1, min(k, SLICE // max(1, n * recipe.inputs * units)))
    whole = size == k and d == units  # then the kernel writes to the result itself
    for i in range(0, k, size):
        own = project(x if size == k else x[:, i : i + size])
        given = padded(own, recipe.inputs, d, units)
        steps = given.shape[1]
        here = found if whole else take((n, steps, units), x)
        machine.outputs(recipe)([given, ready, bias, states, here], steps, n, units)
        if not whole:
            found[:, i : i + steps] = here[..., :d]
            give(here)
        give(own)
        if steps % 2:  # the end is in the second place
            states = states.flip(0)
    return found, states[0].view(n, recipe.parts, units)[..., :d].reshape(n, -1)
