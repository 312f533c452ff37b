"""LLVM code of a recurrent product in tiles: some rows by one panel of units, accumulated in registers.

A tile's rows share every load of a weight. So the tallest tile that fits in the registers is the fastest.
"""

from collections.abc import Callable
from typing import Any

from hbll_seq.kernels.emit_team import Target
from hbll_seq.kernels.vector import Code, V


def heights(target: Target, gates: int) -> list[int]:
    """List the rows of a tile, largest first: three quarters of the registers hold accumulators."""
    most = min(16, max(1, target.registers * 3 // 4 // gates)) if gates else 1
    return [most, *(h for h in (8, 4, 2, 1) if h < most)]


def tiles(code: Code, first: Any, stop: Any, sizes: list[int], tile: Callable[[Any, int], None]) -> None:
    """Cover rows first..stop, with the tallest tiles first."""
    for height in sizes:

        def body(i: Any, height: int = height) -> None:
            tile(i, height)

        first = code.each(first, stop, height, body)


def product(
    code: Code, count: Any, weights: Any, rows: list[Any], start: list[list[V]], bf16: bool = False
) -> list[list[V]]:
    """Compute `start[g][r] + sum over k of rows[r][k] weights[k, g]` in registers; with `bf16` k are pairs."""
    gates, height = len(start), len(rows)
    if not gates:
        return []

    def body(k: Any, values: list[V]) -> list[V]:
        b = code.b
        place = b.mul(k, code.index(gates * code.width))
        w = [code.load(code.at(weights, place, code.index(g * code.width))) for g in range(gates)]
        h = [code.splat(code.at(row, k)) for row in rows]
        where = [(g * height + r, w[g], h[r]) for g in range(gates) for r in range(height)]
        if bf16:
            return [code.add_pairs(values[i], p, q) for i, p, q in where]
        return [values[i] + p * q for i, p, q in where]

    flat = code.fold(count, [v for gate in start for v in gate], body)
    return [flat[g * height : (g + 1) * height] for g in range(gates)]
