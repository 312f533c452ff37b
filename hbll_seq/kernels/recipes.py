"""Recipes: the formulas of a cell's time step, forward and backward, element by element, for the fused rolls.

The emitter makes the products with the recurrent weights (`emit.py`); a recipe gets their results. Names are those of
the cells' own modules. Gradients are checked against autograd (tests/kernels/test_fused.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from hbll_seq.kernels.vector import V, sigmoid, sigmoid_tanh, sigmoids, tanh


class Forward(NamedTuple):
    """New state parts (memory first, output last), values saved for the backward, the carry's factor, the link."""

    state: list[V]
    saved: list[V]
    carry: V
    link: V | None


class Backward(NamedTuple):
    """Gradients on pre-activations (see `Recipe.order`), and on the old state's parts without the products."""

    inputs: list[V]
    direct: list[V]


class Recipe(ABC):
    """One time step of a cell, element by element.

    Attributes:
        name: distinguishes compiled functions.
        parts: vectors of a unit's state; the last is the output, the first the memory.
        inputs: gates of the projected input, `(K, N, inputs * d)`.
        gates: gates with a recurrent product, 0 to 4.
        saved: values per unit kept for the backward.
        order: the gates of the gradient buffer's first `gates` columns: column c belongs to the recurrent
            pre-activation of gate `order[c]`. The last `inputs` columns are the gradients on the projected input.
        columns: gradients per unit, `gates` and `inputs` overlapping.
        constants: rows of per-unit constants (diagonals of the recurrent weights, for the carry).
    """

    name: str
    parts = 1
    inputs: int
    gates: int
    saved: int
    order: tuple[int, ...]
    columns: int
    constants: int

    def project(self, raw: list[V]) -> list[V]:
        """Compute the projected input from `W_ih x + b_ih`, which it is unless the gates see only the input."""
        return raw

    @abstractmethod
    def forward(self, old: list[V], given: list[V], product: list[V], constants: Callable[[int], V]) -> Forward:
        """Compute one time step; `product` includes the recurrent bias."""

    @abstractmethod
    def backward(
        self, g: list[V], old: list[V], new: list[V], given: Callable[[int], V], saved: Callable[[int], V]
    ) -> Backward:
        """Differentiate one time step from gradients `g` on the new state's parts."""


class GRU(Recipe):
    """The recipe of `cells/gru.py`. Its columns are n (recurrent), r, z, n (input), so that both gradients are
    contiguous.
    """

    name = "gru"
    inputs, gates, saved, order, columns, constants = 3, 3, 4, (2, 0, 1), 4, 3

    def forward(self, old: list[V], given: list[V], product: list[V], constants: Callable[[int], V]) -> Forward:
        """See `Recipe.forward`."""
        h, a = old[0], product[2]
        r, z = sigmoids(given[0] + product[0], given[1] + product[1])
        n = tanh(given[2] + r * a)
        wr, wz, wn = (constants(i) for i in range(3))
        gap = h - n
        carry = z + (1.0 - z) * ((1.0 - n * n) * (r * (wn + (1.0 - r) * wr * a)) + gap * (z * wz))
        return Forward([n + z * gap], [r, z, n, a], carry, None)

    def backward(
        self, g: list[V], old: list[V], new: list[V], given: Callable[[int], V], saved: Callable[[int], V]
    ) -> Backward:
        """See `Recipe.backward`."""
        r, z, n, a = (saved(i) for i in range(4))
        closed = g[0] * (1.0 - z)
        inner = closed * (1.0 - n * n)
        through = inner * r
        return Backward([through, through * a * (1.0 - r), closed * z * (old[0] - n), inner], [g[0] * z])


class LSTM(Recipe):
    """The recipe of `cells/lstm.py`."""

    name = "lstm"
    parts, inputs, gates, saved, order, columns, constants = 2, 4, 4, 5, (0, 1, 2, 3), 4, 0

    def forward(self, old: list[V], given: list[V], product: list[V], constants: Callable[[int], V]) -> Forward:
        """See `Recipe.forward`."""
        i, f = sigmoids(given[0] + product[0], given[1] + product[1])
        o, g = sigmoid_tanh(given[3] + product[3], given[2] + product[2])
        c = f * old[0] + i * g
        t = tanh(c)
        return Forward([c, o * t], [i, f, g, o, t], f, o * (1.0 - t * t))

    def backward(
        self, g: list[V], old: list[V], new: list[V], given: Callable[[int], V], saved: Callable[[int], V]
    ) -> Backward:
        """See `Recipe.backward`."""
        i, f, c, o, t = (saved(k) for k in range(5))
        dc = g[0] + g[1] * o * (1.0 - t * t)
        inputs = [
            dc * c * i * (1.0 - i),
            dc * old[0] * f * (1.0 - f),
            dc * i * (1.0 - c * c),
            g[1] * t * o * (1.0 - o),
        ]
        return Backward(inputs, [dc * f])


class Elman(Recipe):
    """The recipe of `cells/elman.py`."""

    inputs, gates, saved, order, columns, constants = 1, 1, 0, (0,), 1, 1

    def __init__(self, relu: bool = False) -> None:
        self.relu, self.name = relu, "relu" if relu else "tanh"

    def forward(self, old: list[V], given: list[V], product: list[V], constants: Callable[[int], V]) -> Forward:
        """See `Recipe.forward`."""
        drive = given[0] + product[0]
        if self.relu:
            return Forward([drive.where_positive(drive)], [], drive.where_positive(constants(0)), None)
        new = tanh(drive)
        return Forward([new], [], (1.0 - new * new) * constants(0), None)

    def backward(
        self, g: list[V], old: list[V], new: list[V], given: Callable[[int], V], saved: Callable[[int], V]
    ) -> Backward:
        """See `Recipe.backward`."""
        return Backward([new[0].where_positive(g[0]) if self.relu else g[0] * (1.0 - new[0] * new[0])], [])


class MinGRU(Recipe):
    """The recipe of `cells/mingru.py`: the projected input is the keep gate and the write."""

    name = "mingru"
    inputs, gates, saved, order, columns, constants = 2, 0, 0, (), 2, 0

    def project(self, raw: list[V]) -> list[V]:
        """See `Recipe.project`."""
        z = sigmoid(raw[0])
        return [1.0 - z, z * raw[1]]

    def forward(self, old: list[V], given: list[V], product: list[V], constants: Callable[[int], V]) -> Forward:
        """See `Recipe.forward`."""
        return Forward([given[0] * old[0] + given[1]], [], given[0], None)

    def backward(
        self, g: list[V], old: list[V], new: list[V], given: Callable[[int], V], saved: Callable[[int], V]
    ) -> Backward:
        """See `Recipe.backward`."""
        return Backward([g[0] * old[0], g[0]], [g[0] * given(0)])
