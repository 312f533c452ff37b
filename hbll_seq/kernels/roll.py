"""The fused roll of any cell with a recipe: K time steps of N rows in one compiled call, float32 on the CPU.

Weights are packed for the kernel once per roll (`packing.py`). States and saved values are work buffers (`buffers.py`)
until the roll is released. The reference is `cells.autograd_rolls.AutogradRoll` in float64.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hbll_seq.kernels import machine
from hbll_seq.kernels.buffers import Borrower
from hbll_seq.kernels.packing import packed, packed_pairs, padded, padded_weight, paired
from hbll_seq.kernels.recipes import Recipe
from hbll_seq.kernels.weight_sums import ByIndex, Recurrent, Slice

PANELS = 4
SLICE = 1 << 19  # gradients of a slice of a backward roll: two megabytes
TALL = 4  # rows of a slice for every unit of a wide layer, at least


def fused(x: Tensor) -> bool:
    """Return whether this module can roll tensors like `x`."""
    return x.device.type == "cpu" and x.dtype == torch.float32


class FusedRoll(Borrower):
    """A roll of K time steps: forward now, backward on request, until it is released.

    Args:
        recipe: the cell's formulas.
        given: `(K, N, inputs * d)` projected inputs with their bias; with `index` `(V, inputs * d)`.
        weight: `(gates * d, d)` recurrent weights, or None.
        bias: `(gates * d,)`, or None for zero.
        start: `(N, S)`.
        index: `(K, N)` int64, contiguous: each input's row of `given`, or None.
        keep: also keep outputs and the backward's inputs.
        carry: also compute carry and link.
        every: time steps between recorded states (`marks`), or None.
        bf16: round both factors of the recurrent products to bfloat16 (where `rounds()`), also backward and for the
            weights' gradient.

    Attributes:
        outputs: `(K, N, d)` (a view on a work buffer, gone with the release), or None with `keep=False`.
        end: `(N, S)`.
        carry, link: `(N, d)`; the link is None for cells without visible part.
        marks: `(m, N, S)` the state after every `every` time steps, except the last; or None. Marks, end, carry
            and link have memory of their own.
    """

    def __init__(
        self, recipe: Recipe, given: Tensor, weight: Tensor | None, bias: Tensor | None, start: Tensor,
        *, keep: bool, carry: bool = True, index: Tensor | None = None, every: int | None = None, bf16: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        w, self.recipe = machine.target().width, recipe
        self._bf16 = bf16 and recipe.gates > 0
        k, n = given.shape[:2] if index is None else index.shape
        self._index = index
        d = start.shape[1] // recipe.parts
        units = -(-d // w) * w
        self._shape, self._units = (k, n, d), units
        self._panels = _panels(n, units)
        self._given = padded(given, recipe.inputs, d, units)
        self._weight = padded_weight(weight, recipe.gates, d, units)  # (gates, units, units)
        self._states = self.borrow((k + 1 if keep else 2, n, recipe.parts, units), start)
        self._states[0] = padded(start, recipe.parts, d, units).view(n, recipe.parts, units)
        self._saved = self.borrow((k, n, recipe.saved, units), start) if keep and recipe.saved else None
        self._grads: Tensor | None = None
        bias = start.new_zeros(recipe.gates * d) if bias is None else bias
        both = start.new_ones(2, n, units)
        # kept states include the marks: only rolls that keep nothing else need them
        apart = None if every is None or keep else start.new_empty((k - 1) // every, n, recipe.parts, units)
        rounded = start.new_zeros(2, n, units, dtype=torch.bfloat16) if self._bf16 else None
        if rounded is not None:
            rounded[0] = self._states[0, :, -1]
        pack = packed_pairs if self._bf16 else packed
        machine.forward(recipe, keep, carry, index is not None, apart is not None, self._bf16)(
            [self._given, index, pack(self._weight, w), padded(bias, recipe.gates, d, units), self._states,
             self._saved, both[0], both[1], self._weight.diagonal(dim1=1, dim2=2).contiguous(), apart, rounded],
            k, n, units, every or 1,
        )  # fmt: skip
        self.marks: Tensor | None = None
        if every is not None:
            chosen = self._states[every:k:every] if apart is None else apart
            marks = chosen[..., :d].reshape(len(chosen), n, recipe.parts * d)
            self.marks = marks.clone() if apart is None else marks  # a view where no unit is padded
        last = self._states[k if keep else k % 2]
        self.end = last[..., :d].clone().view(n, -1)
        self.outputs = self._states[1:, :, -1, :d] if keep else None
        self.carry = both[0, :, :d]
        self.link = both[1, :, :d] if recipe.parts > 1 else None

    def backward_state(
        self, dout: Tensor | None, dend: Tensor | None, factors: Tensor | None = None, every: int = 0
    ) -> Tensor:
        """Return the gradient `(N, S)` on the start from those on outputs `(K, N, d)` and end `(N, S)`.

        Args:
            dout, dend: gradients, or None for zero.
            factors: `(ceil(K / every), N)`: the gradient on the state after step `(i + 1) * every` is multiplied by
                row i on its way back (that on the end never is); or None.
            every: time steps between factors.
        """
        (k, n, _), recipe = self._shape, self.recipe
        if self._grads is None:
            self._grads = self.borrow((k, n, recipe.columns, self._units), self.end)
        rest = self._rest(dend)
        self._back(0, k, self._padded_outputs(dout), rest, factors, every, self._grads, self._transposed())
        self._fresh = True
        return self._start_gradient(rest)

    def slices(self) -> Iterator[Slice]:
        """Iterate over the gradients of the latest `backward_state`, in slices of time steps that fit in the cache."""
        assert self._grads is not None and self._fresh, "backward_state comes first, once each"
        self._fresh = False
        k, n, _ = self._shape
        size = self._slice()
        for first in range(0, k, size):
            some = self._grads[first : first + size]
            yield slice(first * n, (first + len(some)) * n), some.view(len(some) * n, -1)

    def backward_slices(
        self, dout: Tensor | None, rest: Tensor, factors: Tensor | None = None, every: int = 0
    ) -> Iterator[Slice]:
        """Do `backward_state` and `slices` in one, from the last time steps to the first, in a buffer for one slice.

        The next slice overwrites a slice. rest `(N, parts * units)`, from `_rest`, becomes the gradient on the start.
        """
        k, n, _ = self._shape
        spans = _spans(k, self._slice(), every if factors is not None else k)
        grads = self.borrow((max(stop - first for first, stop in spans), n, self.recipe.columns, self._units), self.end)
        dout, weight = self._padded_outputs(dout), self._transposed()
        for first, stop in reversed(spans):
            self._back(first, stop, dout, rest, factors, every, grads, weight)
            yield slice(first * n, stop * n), grads[: stop - first].view((stop - first) * n, -1)
            if factors is not None and first and first % every == 0:  # the kernel skips a slice's end
                rest.mul_(factors[first // every - 1].unsqueeze(1))
        self.give_back(grads)

    def _back(
        self, first: int, stop: int, dout: Tensor | None, rest: Tensor, factors: Tensor | None, every: int,
        grads: Tensor, weight: Tensor,
    ) -> None:  # fmt: skip
        """Differentiate time steps stop-1 to first: update `rest`, write the gradients on their gates to `grads`."""
        n, units = self._shape[1], self._units
        inside = factors is not None and stop - first > every
        chosen = factors[first // every :].contiguous() if factors is not None and inside else None
        index = self._index
        part = None if dout is None else dout[first:stop]
        saved = None if self._saved is None else self._saved[first:stop]
        rounded = None
        if self._bf16:
            rounded = rest.new_empty(2, n, self.recipe.gates * units, dtype=torch.bfloat16)
        kind = (dout is not None, self._panels, index is not None, chosen is not None, self._bf16)
        machine.backward(self.recipe, *kind)(
            [part, rest, saved, self._states[first:], self._given if index is not None else self._given[first:stop],
             None if index is None else index[first:stop], weight, grads, chosen, rounded],
            stop - first, n, units, every,
        )  # fmt: skip

    def _rest(self, dend: Tensor | None) -> Tensor:
        """Return the gradient on the end, padded, in memory of its own."""
        assert self.outputs is not None, "rolled with keep=False: nothing to differentiate"
        rest = torch.zeros_like(self.end) if dend is None else dend
        own = padded(rest, self.recipe.parts, self._shape[2], self._units)
        return own.clone() if own is dend else own

    def _start_gradient(self, rest: Tensor) -> Tensor:
        """Return `rest` without the padding, `(N, S)`."""
        _, n, d = self._shape
        return rest.view(n, self.recipe.parts, self._units)[..., :d].reshape(n, -1)

    def _padded_outputs(self, dout: Tensor | None) -> Tensor | None:
        return None if dout is None else padded(dout, 1, self._shape[2], self._units)

    def _slice(self) -> int:
        """Return the time steps of a slice: few for the cache, but enough to read the weights' gradient rarely."""
        rows = max(SLICE // (self.recipe.columns * self._units), TALL * self._units)
        return max(1, rows // self._shape[1])

    def _transposed(self) -> Tensor:
        order = list(self.recipe.order)
        if not order:
            return self._weight
        wide = self._panels * machine.target().width
        rows = self._weight[order].reshape(len(order) * self._units, self._units // wide, wide)
        rows = rows.transpose(0, 1)  # (d / w / panels, gates * d, panels * w)
        return paired(rows) if self._bf16 else rows.contiguous()

    def given_gradient(self, some: Tensor) -> Tensor:
        """Return a slice's gradient on the projected input `(rows, inputs * d)`; may be a view."""
        (_, _, d), units, recipe = self._shape, self._units, self.recipe
        given = some[:, (recipe.columns - recipe.inputs) * units :]
        return given if d == units else given.unflatten(1, (recipe.inputs, units))[..., :d].flatten(1)

    def by_index(self) -> ByIndex:
        """Make a sum over slices, for a roll with `index`."""
        assert self._index is not None
        return ByIndex(self.recipe, self._shape[2], self._given, self._index)

    def recurrent(self) -> Recurrent:
        """Make a sum over slices for the recurrent weights."""
        return Recurrent(self.recipe, self._shape[2], self._states[:-1], self._bf16)


def _spans(steps: int, most: int, every: int) -> list[tuple[int, int]]:
    """Split the time steps in spans of at most `most`: whole credit blocks of `every` time steps, or parts of one."""
    if 0 < every <= most:
        most = most // every * every
        return [(i, min(i + most, steps)) for i in range(0, steps, most)]
    ends = [min(i + every, steps) for i in range(0, steps, every)]
    return [
        (j, min(j + most, end))
        for i, end in zip(range(0, steps, every), ends, strict=True)
        for j in range(i, end, most)
    ]


def _panels(rows: int, units: int) -> int:
    """Return the vectors of units that the backward's product takes at once."""
    vectors = units // machine.target().width
    panels = math.gcd(vectors, PANELS)
    if machine.shares_units(rows, units):
        while panels > 1 and vectors // panels % torch.get_num_threads():  # the same for every thread
            panels //= 2
    return panels


def rounds() -> bool:
    """Return whether compiled rolls can multiply bfloat16 here."""
    return machine.target().bf16
