"""Finite groups as exact tables: `group("S5").table[a, b]` is the product of the elements a and b.

The groups are those of the state-tracking literature. A finite automaton whose letters permute its states computes a
product in a group. The word problems of S5 and A5 are complete for the circuit class NC1 (Barrington 1989), those of
S3, Z2 and Z60 are easier: their groups are solvable.
"""

import functools
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from hbll_seq.data.scalars import choice

GROUPS = ("S5", "A5", "S3", "parity", "Z60")


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group of n elements, numbered 0 to n - 1; 0 is the identity.

    Attributes:
        name: one of `GROUPS`.
        table: `(n, n)` int64; `table[a, b]` is the number of the product ab. Permutations act from the left:
            ab sends i to a(b(i)).
        generators: numbers of a few elements whose products are the whole group.
        elements: the permutations in lexicographic order, each a tuple of images; or the residues.
    """

    name: str
    table: Tensor
    generators: tuple[int, ...]
    elements: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """Return the number of elements."""
        return len(self.table)

    def products(self, x: Tensor) -> Tensor:
        """Return the running products y_t = x_0 x_1 ... x_t of elements `(..., T)`, `(..., T)`.

        Products are associative, so log2(T) rounds are enough: in each, every entry takes in the product of as many
        elements before it as it has.
        """
        y, span = x.clone(), 1
        while span < x.shape[-1]:
            y[..., span:] = self.table[y[..., :-span], y[..., span:]]
            span *= 2
        return y


@functools.cache
def group(name: str) -> Group:
    """Return a group by name.

    Args:
        name: "S5" and "S3", all permutations of 5 and 3 things (generators: the swap of the first two, and the cycle
            of all); "A5", the even permutations of 5 (generators: the cycle of the first three, and that of all);
            "parity" and "Z60", the residues modulo 2 and 60 under addition (generator: 1).

    Raises:
        InputError: another name.
    """
    choice("group", name, GROUPS)
    if name in ("parity", "Z60"):
        n = 2 if name == "parity" else 60
        residues = torch.arange(n)
        return Group(name, (residues[:, None] + residues) % n, (1,), tuple((i,) for i in range(n)))
    n = int(name[1])
    elements = tuple(p for p in itertools.permutations(range(n)) if name[0] == "S" or _even(p))
    number = {p: i for i, p in enumerate(elements)}
    table = torch.tensor([[number[tuple(a[i] for i in b)] for b in elements] for a in elements])
    first = (1, 0) if name[0] == "S" else (1, 2, 0)
    cycles = ((*first, *range(len(first), n)), (*range(1, n), 0))
    return Group(name, table, tuple(number[p] for p in cycles), elements)


def _even(p: tuple[int, ...]) -> bool:
    """Return whether a permutation has an even number of pairs in the wrong order."""
    return sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0
