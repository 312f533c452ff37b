"""The fused roll of any cell that has a recipe: K steps of N rows in one compiled call, float32 on the CPU.

Weights are packed for the kernel once a roll, units padded with zeros to whole vectors (a padded unit stays zero,
and its gradients are cut off). Work buffers are kept between steps (`buffers.py`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hbll_seq.kernels import machine
from hbll_seq.kernels.buffers import give, take
from hbll_seq.kernels.recipes import Recipe

PANELS = 4


class RollGradients(NamedTuple):
    """Of a roll's latest `backward_state`: on the projected input `(K*N, P)`, recurrent weight and bias (or None)."""

    given: Tensor
    weight: Tensor | None
    bias: Tensor | None


def fused(x: Tensor) -> bool:
    """Whether this module can roll tensors like `x`."""
    return x.device.type == "cpu" and x.dtype == torch.float32


class FusedRoll:
    """Roll K steps, forward now, backward when asked.

    Args:
        recipe: the cell's formulas.
        given: `(K, N, inputs * d)` projected inputs with their bias; with `index` `(V, inputs * d)`.
        weight: `(gates * d, d)` recurrent weights, or None.
        bias: `(gates * d,)`, or None for zero.
        start: `(N, S)`.
        index: `(K, N)` int64, contiguous: the row of `given` that is an input, or None.
        keep: also keep outputs and what the backward needs.
        carry: also work out carry and link.
        every: steps after which the state is wanted (`marks`), or None.

    Attributes:
        outputs: `(K, N, d)` (a view on a work buffer: gone with the roll), or None with `keep=False`.
        end: `(N, S)`.
        carry, link: `(N, d)`; the link is None for cells without visible part.
        marks: `(m, N, S)` the state after every `every` steps, but not after the last step; or None.
    """

    def __init__(
        self, recipe: Recipe, given: Tensor, weight: Tensor | None, bias: Tensor | None, start: Tensor,
        *, keep: bool, carry: bool = True, index: Tensor | None = None, every: int | None = None,
    ) -> None:  # fmt: skip
        w, self.recipe = machine.target().width, recipe
        k, n = given.shape[:2] if index is None else index.shape
        self._index = index
        d = start.shape[1] // recipe.parts
        units = -(-d // w) * w
        self._shape, self._units = (k, n, d), units
        self._given = _padded(given, recipe.inputs, d, units)
        self._weight = _padded_weight(weight, recipe.gates, d, units)  # (gates, units, units)
        self._states = take((k + 1 if keep else 2, n, recipe.parts, units), start)
        self._states[0] = _padded(start, recipe.parts, d, units).view(n, recipe.parts, units)
        self._saved = take((k, n, recipe.saved, units), start) if keep and recipe.saved else None
        self._grads: Tensor | None = None
        bias = start.new_zeros(recipe.gates * d) if bias is None else bias
        both = start.new_ones(2, n, units)
        # states that are kept are there already: marks are for rolls that keep nothing else
        apart = None if every is None or keep else start.new_empty((k - 1) // every, n, recipe.parts, units)
        machine.forward(recipe, keep, carry, index is not None, apart is not None)(
            [self._given, index, _pack(self._weight, w), _padded(bias, recipe.gates, d, units), self._states,
             self._saved, both[0], both[1], self._weight.diagonal(dim1=1, dim2=2).contiguous(), apart],
            k, n, units, every or 1,
        )  # fmt: skip
        self.marks: Tensor | None = None
        if every is not None:
            chosen = self._states[every:k:every] if apart is None else apart
            self.marks = chosen[..., :d].reshape(len(chosen), n, recipe.parts * d)
        last = self._states[k if keep else k % 2]
        self.end = last[..., :d].clone().view(n, -1)  # outlives the work buffer
        self.outputs = self._states[1:, :, -1, :d] if keep else None
        self.carry = both[0, :, :d]
        self.link = both[1, :, :d] if recipe.parts > 1 else None

    def __del__(self) -> None:
        """Work buffers go back; outputs are gone with the roll, users copy what they keep."""
        for name in ("_states", "_saved", "_grads"):
            buffer = getattr(self, name, None)
            if buffer is not None and give is not None:  # None while the interpreter shuts down
                give(buffer)

    def backward_state(
        self, dout: Tensor | None, dend: Tensor | None, factors: Tensor | None = None, every: int = 0
    ) -> Tensor:
        """Gradient `(N, S)` on the start from those on outputs `(K, N, d)` and end `(N, S)`.

        Args:
            dout, dend: gradients, or None for zero.
            factors: `(ceil(K / every), N)`: the gradient on the state after step `(i + 1) * every` is multiplied by
                row i on its way back (that on the end never is); or None.
            every: steps between them.
        """
        assert self.outputs is not None, "rolled with keep=False: nothing to differentiate"
        (k, n, d), units, recipe = self._shape, self._units, self.recipe
        if self._grads is None:
            self._grads = take((k, n, recipe.columns, units), self.end)
        rest = torch.zeros_like(self.end) if dend is None else dend
        rest = _padded(rest, recipe.parts, d, units)
        rest = rest.clone() if rest is dend else rest
        dout = None if dout is None else _padded(dout, 1, d, units)
        factors = None if factors is None else factors.contiguous()
        machine.backward(recipe, dout is not None, self._panels(), self._index is not None, factors is not None)(
            [dout, rest, self._saved, self._states, self._given, self._index, self._transposed(), self._grads, factors],
            k, n, units, every,
        )  # fmt: skip
        self._fresh = True
        return rest.view(n, recipe.parts, units)[..., :d].reshape(n, -1)

    def _transposed(self) -> Tensor:
        order = list(self.recipe.order)
        if not order:
            return self._weight
        wide = self._panels() * machine.target().width
        rows = self._weight[order].reshape(len(order) * self._units, self._units // wide, wide)
        return rows.transpose(0, 1).contiguous()  # (d / w / panels, gates * d, panels * w)

    def _panels(self) -> int:
        """Vectors of units that the backward's product takes at once."""
        vectors = self._units // machine.target().width
        panels = math.gcd(vectors, PANELS)
        if machine.shares_units(self._shape[1], self._units):
            while panels > 1 and vectors // panels % torch.get_num_threads():  # the same for every thread
                panels //= 2
        return panels

    def products(self) -> RollGradients:
        """Of the latest `backward_state`; `given` may be a view on a work buffer."""
        (_, _, d), units, recipe = self._shape, self._units, self.recipe
        flat = self._flat_gradients()
        self._fresh = False
        given = flat[:, (recipe.columns - recipe.inputs) * units :]
        if d != units:
            given = given.unflatten(1, (recipe.inputs, units))[..., :d].flatten(1)
        return RollGradients(given, *self._recurrent(flat))

    def products_by_index(self) -> RollGradients:
        """`products` of a roll with `index`, `given` added up by index: `(V, inputs * d)`."""
        assert self._index is not None
        (_, _, d), units, recipe, w = self._shape, self._units, self.recipe, machine.target().width
        flat = self._flat_gradients()
        self._fresh = False
        total = flat.new_zeros(len(self._given), recipe.inputs * units)
        values = flat[:, (recipe.columns - recipe.inputs) * units :]
        machine.add_by_index()([values, self._index, total], len(flat), recipe.inputs * units // w, flat.shape[1])
        given = total.unflatten(1, (recipe.inputs, units))[..., :d].flatten(1)
        return RollGradients(given, *self._recurrent(flat))

    def _flat_gradients(self) -> Tensor:
        """`(K*N, columns * units)`."""
        assert self._grads is not None and self._fresh, "backward_state comes first, once each"
        return self._grads.view(-1, self.recipe.columns * self._units)

    def _recurrent(self, flat: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients on recurrent weight and bias."""
        (k, n, d), units, recipe = self._shape, self._units, self.recipe
        if not recipe.gates:
            return None, None
        inner = flat[:, : recipe.gates * units]
        before = self._states[:-1].view(k * n, -1)[:, (recipe.parts - 1) * units :]
        weight = (inner.t() @ before).view(recipe.gates, units, units)[:, :d, :d]
        bias = inner.sum(0).view(recipe.gates, units)[:, :d]
        back = [recipe.order.index(g) for g in range(recipe.gates)]
        return weight[back].reshape(-1, d), bias[back].flatten()


def _padded(x: Tensor, groups: int, d: int, units: int) -> Tensor:
    """`(..., groups * d) -> (..., groups * units)`, contiguous; x itself where nothing is to do."""
    if d == units:
        return x.contiguous()
    return pad(x.unflatten(-1, (groups, d)), (0, units - d)).flatten(-2)


def _padded_weight(weight: Tensor | None, gates: int, d: int, units: int) -> Tensor:
    """`(gates * d, d) -> (gates, units, units)`; zeros `(1, units, units)` where there is none."""
    if weight is None:
        return torch.zeros(1, units, units)
    weight = weight.detach().view(gates, d, d)
    return weight if d == units else pad(weight, (0, units - d, 0, units - d))


def _pack(weight: Tensor, w: int) -> Tensor:
    """`(gates, units out, units in) -> (units out / w, units in, gates, w)`."""
    gates, units, _ = weight.shape
    return weight.view(gates, units // w, w, units).permute(1, 3, 0, 2).contiguous()
