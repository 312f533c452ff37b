"""LLVM code for the end of a credit block inside one call: record the state, or discount the gradient on it.

Each thread does it for its own rows and units.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hbll_seq.kernels.vector import Code


@contextmanager
def at_block_end(code: Code, a: dict[str, Any], t: Any) -> Iterator[Any]:
    """Run the body after every `every` time steps, except after the last; yield the time steps done."""
    b = code.b
    done = b.add(t, code.index(1))
    inside = b.icmp_signed("<", done, a["steps"])
    with b.if_then(b.and_(inside, b.icmp_signed("==", b.srem(done, a["every"]), code.index(0)))):
        yield done


def copy_states(code: Code, a: dict[str, Any], parts: int, span: Any, source: Any, to: Any) -> None:
    """Copy states `(N, parts, d)`, span numbers per row."""
    b = code.b

    def row(i: Any) -> None:
        def vector(part: Any, j: Any) -> None:
            code.store(code.load(code.at(source, part, j)), code.at(to, part, j))

        _each_part(code, a, parts, b.mul(i, span), vector)

    code.each(a["first"], a["stop"], 1, row)


def discount(code: Code, a: dict[str, Any], parts: int, span: Any, factors: Any) -> None:
    """Multiply the gradient on the states, `rest` `(N, parts, d)`, by the factor of each row."""
    b = code.b

    def row(i: Any) -> None:
        factor = code.splat(code.at(factors, i))

        def vector(part: Any, j: Any) -> None:
            place = code.at(a["rest"], part, j)
            code.store(code.load(place) * factor, place)

        _each_part(code, a, parts, b.mul(i, span), vector)

    code.each(a["first"], a["stop"], 1, row)


def _each_part(code: Code, a: dict[str, Any], parts: int, row: Any, body: Callable[[Any, Any], None]) -> None:
    """Run `body(start of the part, unit)` for this thread's vectors of a row that starts at `row`."""
    for q in range(parts):
        part = code.b.add(row, code.b.mul(a["units"], code.index(q)))

        def vector(j: Any, part: Any = part) -> None:
            body(part, j)

        code.each(a["left"], a["right"], code.width, vector)
