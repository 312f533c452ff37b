"""Paths through a layered network: subnetworks that the tree trains.

Node n (1 <= n < N) is the n-th module, node N the prediction head, node 0 the embedded input. An interval (i, j) of the
tree has the midpoint n. A path crosses it directly, by module j on the state of node i, or through n, crossing
(i, n) and (n, j). The root's midpoint is on every path. For N = 8 the path of one module is (4,), the short path
(4, 6, 7), the full path (1, ..., 7), and there are 25 in all (paper, section 1).
"""

from collections.abc import Sequence

from hbll_seq.data.scalars import plain_number
from hbll_seq.errors import InputError
from hbll_seq.tree import Tree


def midpoint(i: int, j: int) -> int:
    """Return the midpoint of the tree's interval (i, j): the number inside it with the most factors of two."""
    return max(range(i + 1, j), key=lambda n: n & -n)


def level_nodes(layers: int) -> list[list[int]]:
    """List the nodes of every height, top down, of a network of N = `layers` (head included)."""
    tree = Tree(layers, 1)
    heights: dict[int, list[int]] = {}
    for n in range(1, layers):
        heights.setdefault(tree.height(n), []).append(n)
    return [heights[h] for h in sorted(heights, reverse=True)]


def resolve(layers: int, spec: str | Sequence[int]) -> tuple[int, ...]:
    """Return the nodes of a path given by name ("full", "short", "first") or by its nodes, checked.

    Raises:
        InputError: an unknown name, or nodes that are no path of the tree.
    """
    if isinstance(spec, str):
        spine = [midpoint(0, layers)]
        while layers - spine[-1] > 1:
            spine.append(midpoint(spine[-1], layers))
        named = {"full": tuple(range(1, layers)), "short": tuple(spine), "first": (spine[0],)}
        if spec not in named:
            raise InputError("path", repr(spec), f"one of {sorted(named)} or a list of nodes")
        return named[spec]
    if not isinstance(spec, list | tuple | range):
        raise InputError("path", type(spec).__name__, "its name or a list of nodes")
    nodes = tuple(plain_number(node) for node in spec)
    top = midpoint(0, layers)
    if (
        any(not isinstance(n, int) or isinstance(n, bool) or not 0 < n < layers for n in nodes)
        or list(nodes) != sorted(set(nodes))
        or top not in nodes
    ):
        raise InputError("path", list(nodes), f"rising nodes in 1..{layers - 1}, {top} among them")
    left = [(0, layers)]
    while left:
        i, j = left.pop()
        inside = [n for n in nodes if i < n < j]
        if not inside:
            continue
        n = midpoint(i, j)
        if n not in inside:
            raise InputError("path", list(nodes), f"node {n} too: a path into ({i}, {j}) goes through its midpoint")
        left += [(i, n), (n, j)]
    return nodes


def count(layers: int) -> int:
    """Count the paths of a network of N = `layers`."""

    def ways(i: int, j: int) -> int:
        if j - i < 2:
            return 1
        n = midpoint(i, j)
        return 1 + ways(i, n) * ways(n, j)

    return ways(0, layers) - 1  # without the path that has no module


def every(layers: int, limit: int = 1000) -> list[tuple[int, ...]]:
    """List all paths, by length and then by nodes.

    Raises:
        InputError: more than `limit` paths.
    """
    if count(layers) > limit:
        raise InputError("layers", f"{layers}, which has {count(layers)} paths", f"at most {limit} paths; name some")

    def ways(i: int, j: int) -> list[tuple[int, ...]]:
        if j - i < 2:
            return [()]
        n = midpoint(i, j)
        return [(), *((*a, n, *b) for a in ways(i, n) for b in ways(n, j))]

    return sorted((p for p in ways(0, layers) if p), key=lambda p: (len(p), p))
