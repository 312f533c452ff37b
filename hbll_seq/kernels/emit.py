"""Writes a cell's fused roll as LLVM instructions: all K steps of a range of rows in one call, forward or backward.

Rows (blocks times sequences) never meet inside a roll, so a thread takes its rows through all steps without waiting
for others, and a tile of rows stays in registers from the recurrent product to the new state:

    for every step: for every panel of `width` units: for every tile of rows:
        acc[gate][row] = bias + sum_k h[row, k] W[gate, k, panel]     fused multiply-adds, accumulators in registers
        the recipe's formulas on the accumulators; the new state and what the backward needs go to memory

The weights come packed panel by panel, so the inner loop reads them in order. Units are padded to whole vectors by
the caller. Backward, per step: the recipe's formulas for all rows, then the product with the transposed
weights, tile by tile. Sizes are arguments, so one compiled function serves every shape.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from hbll_seq.kernels.recipes import Recipe
from hbll_seq.kernels.vector import I32, I64, POINTER, Code, V

FORWARD = ("given", "index", "weight", "bias", "states", "saved", "carry", "link", "constants", "marks")
BACKWARD = ("dout", "rest", "saved", "states", "given", "index", "weight", "grads", "factors")
SIZES = ("steps", "rows", "units", "every", "first", "stop")
PIECE = 8  # rows that a thread takes through all steps at a time: what they write stays in the cache
EVEN = 4  # rows a thread's share is a multiple of: a tile of the backward


class Target:
    """What of the machine matters: numbers in a vector register, vector registers, and whether threads are to share."""

    def __init__(self, width: int, registers: int, team: bool = False) -> None:
        self.width, self.registers, self.team = width, registers, team


def forward(
    recipe: Recipe, target: Target, name: str, *, keep: bool, carry: bool, lookup: bool = False, marks: bool = False
) -> str:
    """A module with function `name`: arguments `FORWARD` (pointers) and `SIZES` (int64); rows first..stop.

    given `(K, N, inputs, d)`, or with `lookup` `(V, inputs, d)` of which index `(K, N)` int64 says the row, weight
    `(d / w, d, gates, w)`, bias `(gates, d)`, states `(K + 1 or 2, N, parts, d)`
    with the start in the first place, saved `(K, N, saved, d)`, carry and link `(N, d)`, constants `(c, d)`. Without
    `keep` the states alternate between two places and nothing is saved; without `carry` carry and link are not
    touched. With `marks` the state after every `every` steps, but not after the last step, goes to marks
    `((steps - 1) / every, N, parts, d)` as well.
    """
    module, code, a = begin(name, FORWARD, target, EVEN)
    b, w, d = code.b, target.width, a["units"]
    span = b.mul(d, code.index(recipe.parts))
    slot = b.mul(span, a["rows"])

    def step(t: Any) -> None:
        if keep:
            source, to = (
                code.at(a["states"], b.mul(t, slot)),
                code.at(a["states"], b.mul(b.add(t, code.index(1)), slot)),
            )
        else:
            odd = b.and_(t, code.index(1))
            source = code.at(a["states"], b.mul(odd, slot))
            to = code.at(a["states"], b.mul(b.sub(code.index(1), odd), slot))
        base = b.mul(t, a["rows"])

        def panel(j: Any) -> None:
            weights = code.at(a["weight"], b.mul(b.mul(j, d), code.index(recipe.gates)))

            def tile(i: Any, height: int) -> None:
                rows = [b.add(i, code.index(r)) for r in range(height)]
                before = [code.at(source, b.mul(row, span)) for row in rows]
                biases = [code.load(code.at(a["bias"], b.mul(d, code.index(g)), j)) for g in range(recipe.gates)]
                visible = [code.at(p, b.mul(d, code.index(recipe.parts - 1))) for p in before]
                product = _product(code, d, weights, visible, [[bias] * height for bias in biases])
                for r, row in enumerate(rows):

                    def field(name: str, count: int, index: int, row: Any = row) -> Any:
                        which = b.add(base, row)
                        if lookup and name == "given":
                            which = code.integer_at(a["index"], which)
                        return code.at(
                            a[name], b.mul(which, b.mul(d, code.index(count))), b.mul(d, code.index(index)), j
                        )

                    def constant(c: int) -> V:
                        return code.load(code.at(a["constants"], b.mul(d, code.index(c)), j))

                    old = [code.load(code.at(before[r], b.mul(d, code.index(q)), j)) for q in range(recipe.parts)]
                    given = [code.load(field("given", recipe.inputs, g)) for g in range(recipe.inputs)]
                    new = recipe.forward(old, given, [gate[r] for gate in product], constant)
                    for q, part in enumerate(new.state):
                        code.store(part, code.at(to, b.mul(row, span), b.mul(d, code.index(q)), j))
                    if keep:
                        for s, value in enumerate(new.saved):
                            code.store(value, field("saved", recipe.saved, s))
                    if carry:
                        place = code.at(a["carry"], b.mul(row, d), j)
                        code.store(code.load(place) * new.carry, place)
                        if new.link is not None:
                            code.store(new.link, code.at(a["link"], b.mul(row, d), j))

            _tiles(code, a["first"], a["stop"], _heights(target, recipe.gates), tile)

        code.each(code.index(0), d, w, panel)
        if marks:
            done = b.add(t, code.index(1))
            inside = b.icmp_signed("<", done, a["steps"])
            with b.if_then(b.and_(inside, b.icmp_signed("==", b.srem(done, a["every"]), code.index(0)))):
                place = code.at(a["marks"], b.mul(b.sub(b.sdiv(done, a["every"]), code.index(1)), slot))
                low, high = (b.mul(a[end], span) for end in ("first", "stop"))
                code.each(low, high, w, lambda i: code.store(code.load(code.at(to, i)), code.at(place, i)))

    code.each(code.index(0), a["steps"], 1, step)
    b.ret_void()
    return str(module)


def backward(
    recipe: Recipe, target: Target, name: str, *, dout: bool, panels: int = 1, lookup: bool = False,
    factors: bool = False,
) -> str:  # fmt: skip
    """A module with function `name`: arguments `BACKWARD` and `SIZES`.

    dout `(K, N, d)` or ignored, rest `(N, parts, d)` the gradient on the end that becomes that on the start, weight
    `(d / w / panels, gates * d, panels, w)`, grads `(K, N, columns, d)` written; the others as in `forward` with
    `keep`. The product takes `panels` vectors of units at once: one vector alone would wait for its loads.
    With `factors` the gradient on the state after every `every` steps, but not after the last step, is multiplied by a
    number of its row, factors `(steps / every, N)`: a discount between credit blocks, inside one call.
    """
    module, code, a = begin(name, BACKWARD, target, EVEN)
    b, w, d = code.b, target.width, a["units"]
    span = b.mul(d, code.index(recipe.parts))
    slot = b.mul(span, a["rows"])
    inner = b.mul(d, code.index(recipe.gates))
    last = b.mul(d, code.index(recipe.parts - 1))

    def step(back: Any) -> None:
        t = b.sub(b.sub(a["steps"], code.index(1)), back)
        base = b.mul(t, a["rows"])
        source = code.at(a["states"], b.mul(t, slot))
        to = code.at(source, slot)
        if factors:
            done = b.add(t, code.index(1))
            inside = b.icmp_signed("<", done, a["steps"])
            with b.if_then(b.and_(inside, b.icmp_signed("==", b.srem(done, a["every"]), code.index(0)))):
                numbers = code.at(a["factors"], b.mul(b.sdiv(t, a["every"]), a["rows"]))

                def discount(i: Any) -> None:
                    factor, row = code.splat(code.at(numbers, i)), code.at(a["rest"], b.mul(i, span))

                    def scale(j: Any) -> None:
                        code.store(code.load(code.at(row, j)) * factor, code.at(row, j))

                    code.each(code.index(0), span, w, scale)

                code.each(a["first"], a["stop"], 1, discount)

        def element(i: Any, j: Any) -> None:
            at = b.add(base, i)

            def field(name: str, count: int, index: int) -> Any:
                which = code.integer_at(a["index"], at) if lookup and name == "given" else at
                return code.at(a[name], b.mul(which, b.mul(d, code.index(count))), b.mul(d, code.index(index)), j)

            def parts(pointer: Any) -> list[Any]:
                return [code.at(pointer, b.mul(i, span), b.mul(d, code.index(q)), j) for q in range(recipe.parts)]

            rest = parts(a["rest"])
            g = [code.load(p) for p in rest]
            if dout:
                g[-1] = g[-1] + code.load(field("dout", 1, 0))
            result = recipe.backward(
                g,
                [code.load(p) for p in parts(source)],
                [code.load(p) for p in parts(to)],
                lambda k: code.load(field("given", recipe.inputs, k)),
                lambda k: code.load(field("saved", recipe.saved, k)),
            )
            for c, value in enumerate(result.inputs):
                code.store(value, field("grads", recipe.columns, c))
            zero = V(code, code.constant(0.0))
            for q, p in enumerate(rest):
                code.store(result.direct[q] if q < len(result.direct) else zero, p)

        code.each(a["first"], a["stop"], 1, lambda i: _ignore(code.each(code.index(0), d, w, lambda j: element(i, j))))

        def panel(j: Any) -> None:
            weights = code.at(a["weight"], b.mul(j, inner))

            def tile(i: Any, height: int) -> None:
                rows = [b.add(i, code.index(r)) for r in range(height)]
                columns = b.mul(d, code.index(recipe.columns))
                grads = [code.at(a["grads"], b.mul(b.add(base, row), columns)) for row in rows]
                places = [
                    [code.at(a["rest"], b.mul(row, span), last, j, code.index(p * w)) for row in rows]
                    for p in range(panels)
                ]
                totals = _product(code, inner, weights, grads, [[code.load(p) for p in line] for line in places])
                for line, values in zip(places, totals, strict=True):
                    for place, total in zip(line, values, strict=True):
                        code.store(total, place)

            _tiles(code, a["first"], a["stop"], _heights(target, panels), tile)

        if recipe.gates:
            code.each(code.index(0), d, panels * w, panel)

    code.each(code.index(0), a["steps"], 1, step)
    b.ret_void()
    return str(module)


def _ignore(value: Any) -> None:
    """The loop's end is of no interest."""


def begin(name: str, pointers: tuple[str, ...], target: Target, even: int) -> tuple[ir.Module, Code, dict[str, Any]]:
    """A module with an empty function `name(*pointers, *SIZES)`; threads share multiples of `even` rows."""
    module = ir.Module(name)
    kinds = [POINTER] * len(pointers) + [I64] * len(SIZES)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    for argument in function.args[: len(pointers)]:
        argument.add_attribute("noalias")
    if target.team:
        _add_team(module, name, len(pointers), even)
    named = dict(zip((*pointers, *SIZES), function.args, strict=True))
    return module, Code(ir.IRBuilder(function.append_basic_block("entry")), target.width), named


def _add_team(module: ir.Module, name: str, pointers: int, multiple: int) -> None:
    """`{name}_team(data)`, what every thread of a team runs: it takes its share of the rows.

    data, 64 bits each: the pointers, steps, rows, units, every. `hbll_number` and `hbll_threads` are functions
    that give a thread its number and the number of threads.
    """
    team = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), f"{name}_team")
    b = ir.IRBuilder(team.append_basic_block("entry"))

    def word(i: int, kind: Any) -> Any:
        return b.load(b.gep(team.args[0], [ir.Constant(I64, i)], source_etype=I64), typ=kind)

    def ask(function: str) -> Any:
        return b.sext(b.call(ir.Function(module, ir.FunctionType(I32, []), function), []), I64)

    arguments = [word(i, POINTER) for i in range(pointers)]
    steps, rows, units, every = (word(pointers + i, I64) for i in range(4))
    number, threads = ask("hbll_number"), ask("hbll_threads")
    one, even = ir.Constant(I64, 1), ir.Constant(I64, multiple)

    def divided(x: Any, y: Any) -> Any:
        return b.sdiv(b.sub(b.add(x, y), one), y)

    share = b.mul(divided(divided(rows, threads), even), even)
    first = b.mul(number, share)
    end = b.add(first, share)
    stop = b.select(b.icmp_signed("<", end, rows), end, rows)
    piece, code = ir.Constant(I64, PIECE), Code(b, 1)

    def go(i: Any) -> None:
        low = b.add(first, b.mul(i, piece))
        high = b.add(low, piece)
        high = b.select(b.icmp_signed("<", high, stop), high, stop)
        b.call(module.get_global(name), [*arguments, steps, rows, units, every, low, high])

    with b.if_then(b.icmp_signed("<", first, stop)):
        code.each(ir.Constant(I64, 0), divided(b.sub(stop, first), piece), 1, go)
    b.ret_void()


def _heights(target: Target, gates: int) -> list[int]:
    """Rows of a tile, largest first: three quarters of the registers hold accumulators."""
    most = min(16, max(1, target.registers * 3 // 4 // gates)) if gates else 1
    return [most, *(h for h in (8, 4, 2, 1) if h < most)]


def _tiles(code: Code, first: Any, stop: Any, heights: list[int], tile: Callable[[Any, int], None]) -> None:
    """Cover rows first..stop, by the tallest tiles first."""
    for height in heights:

        def body(i: Any, height: int = height) -> None:
            tile(i, height)

        first = code.each(first, stop, height, body)


def _product(code: Code, count: Any, weights: Any, rows: list[Any], start: list[list[V]]) -> list[list[V]]:
    """`start[g][r] + sum over k of rows[r][k] weights[k, g]`, accumulators in registers."""
    gates, height = len(start), len(rows)
    if not gates:
        return []

    def body(k: Any, values: list[V]) -> list[V]:
        b = code.b
        place = b.mul(k, code.index(gates * code.width))
        w = [code.load(code.at(weights, place, code.index(g * code.width))) for g in range(gates)]
        h = [code.splat(code.at(row, k)) for row in rows]
        return [values[g * height + r] + w[g] * h[r] for g in range(gates) for r in range(height)]

    flat = code.fold(count, [v for gate in start for v in gate], body)
    return [flat[g * height : (g + 1) * height] for g in range(gates)]
