"""LLVM code of a cell's fused roll: all K time steps of a range of rows in one call, forward or backward.

Rows (blocks times sequences) never meet inside a roll, so a thread takes its rows through all steps without waiting
for others, and a tile of rows stays in registers from the recurrent product to the new state:

    for every step: for every panel of `width` units: for every tile of rows:
        acc[gate][row] = bias + sum_k h[row, k] W[gate, k, panel]     fused multiply-adds, accumulators in registers
        the recipe's formulas on the accumulators; the new state and the backward's inputs go to memory

The weights come packed panel by panel, so the inner loop reads them in order. Units are padded to whole vectors by
the caller. Backward, per step: the recipe's formulas for all rows, then the product with the transposed
weights, tile by tile. Sizes are arguments, so one compiled function serves every shape.

`forward` and `backward` are long: each writes one kernel in the order of execution. The parts of a time step share a
dozen places in memory, which a separate function would need as arguments.
"""

from typing import Any

from hbll_seq.kernels.emit_blocks import at_block_end, copy_states, discount
from hbll_seq.kernels.emit_team import Target, begin, meet
from hbll_seq.kernels.emit_tiles import heights, product, tiles
from hbll_seq.kernels.recipes import Recipe
from hbll_seq.kernels.vector import Code, V

FORWARD = ("given", "index", "weight", "bias", "states", "saved", "carry", "link", "constants", "marks", "rounded")
BACKWARD = ("dout", "rest", "saved", "states", "given", "index", "weight", "grads", "factors", "rounded")
EVEN = 4  # a thread's share of rows is a multiple of this: a tile of the backward


def forward(
    recipe: Recipe, target: Target, name: str, *, keep: bool, carry: bool, lookup: bool = False, marks: bool = False,
    bf16: bool = False,
) -> str:  # fmt: skip
    """Write a module with function `name`: arguments `FORWARD` (pointers) and `SIZES` (int64); rows first..stop.

    given `(K, N, inputs, d)`, or with `lookup` `(V, inputs, d)` with index `(K, N)` int64 for the row, weight
    `(d / w, d, gates, w)`, bias `(gates, d)`, states `(K + 1 or 2, N, parts, d)`
    with the start in the first place, saved `(K, N, saved, d)`, carry and link `(N, d)`, constants `(c, d)`. Without
    `keep` the states alternate between two places and nothing is saved; without `carry` carry and link are not
    touched. With `marks` the state after every `every` time steps, except the last, also goes to marks
    `((steps - 1) / every, N, parts, d)`.

    With `bf16` the product reads weights and states rounded to bfloat16 and sums in float32; everything else is
    unchanged. Two numbers of one unit then lie side by side, weight `(d / w, d / 2, gates, w, 2)`; rounded `(2, N, d)`
    has room for the states, alternating, the start in the first place.
    """
    module, code, a = begin(name, FORWARD, target, EVEN, target.width)
    b, w, d = code.b, target.width, a["units"]
    span = b.mul(d, code.index(recipe.parts))
    slot = b.mul(span, a["rows"])
    words = b.sdiv(d, code.index(2)) if bf16 else d  # size of a row of the product, 32 bits each

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
        if bf16:
            low, low_to = _alternating(code, a["rounded"], t, b.mul(a["rows"], words))

        def panel(j: Any) -> None:
            weights = code.at(a["weight"], b.mul(b.mul(j, words), code.index(recipe.gates)))

            def tile(i: Any, height: int) -> None:
                rows = [b.add(i, code.index(r)) for r in range(height)]
                before = [code.at(source, b.mul(row, span)) for row in rows]
                biases = [code.load(code.at(a["bias"], b.mul(d, code.index(g)), j)) for g in range(recipe.gates)]
                visible = [code.at(p, b.mul(d, code.index(recipe.parts - 1))) for p in before]
                if bf16:
                    visible = [code.at(low, b.mul(row, words)) for row in rows]
                products = product(code, words, weights, visible, [[bias] * height for bias in biases], bf16)
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
                    new = recipe.forward(old, given, [gate[r] for gate in products], constant)
                    for q, part in enumerate(new.state):
                        code.store(part, code.at(to, b.mul(row, span), b.mul(d, code.index(q)), j))
                    if bf16:
                        code.store_rounded(new.state[-1], code.half_at(low_to, b.mul(row, d), j))
                    if keep:
                        for s, value in enumerate(new.saved):
                            code.store(value, field("saved", recipe.saved, s))
                    if carry:
                        place = code.at(a["carry"], b.mul(row, d), j)
                        code.store(code.load(place) * new.carry, place)
                        if new.link is not None:
                            code.store(new.link, code.at(a["link"], b.mul(row, d), j))

            tiles(code, a["first"], a["stop"], heights(target, recipe.gates), tile)

        code.each(a["left"], a["right"], w, panel)
        if recipe.gates:
            meet(code, a, t)  # the next time step reads all units of this one
        if marks:
            with at_block_end(code, a, t) as done:
                place = code.at(a["marks"], b.mul(b.sub(b.sdiv(done, a["every"]), code.index(1)), slot))
                copy_states(code, a, recipe.parts, span, to, place)

    code.each(code.index(0), a["steps"], 1, step)
    b.ret_void()
    return str(module)


def backward(
    recipe: Recipe, target: Target, name: str, *, dout: bool, panels: int = 1, lookup: bool = False,
    factors: bool = False, bf16: bool = False,
) -> str:  # fmt: skip
    """Write a module with function `name`: arguments `BACKWARD` and `SIZES`.

    dout `(K, N, d)` or ignored, rest `(N, parts, d)` the gradient on the end, overwritten by that on the start, weight
    `(d / w / panels, gates * d, panels, w)`, grads `(K, N, columns, d)` written; the others as in `forward` with
    `keep`. The product takes `panels` vectors of units at once: one vector alone would wait for its loads.
    With `factors` `(steps / every, N)` the gradient on the state after every `every` time steps, except the last, is
    multiplied by its row's factor: a discount between credit blocks, inside one call.
    With `bf16` the product reads its factors rounded, weight `(d / w / panels, gates * d / 2, panels, w, 2)`; rounded
    `(2, N, gates * d)` is room for the gradients of two steps.
    """
    module, code, a = begin(name, BACKWARD, target, EVEN, panels * target.width)
    b, w, d = code.b, target.width, a["units"]
    span = b.mul(d, code.index(recipe.parts))
    slot = b.mul(span, a["rows"])
    inner = b.mul(d, code.index(recipe.gates))
    words = b.sdiv(inner, code.index(2)) if bf16 else inner  # size of a row of the product, 32 bits each
    last = b.mul(d, code.index(recipe.parts - 1))

    def step(back: Any) -> None:
        t = b.sub(b.sub(a["steps"], code.index(1)), back)
        base = b.mul(t, a["rows"])
        source = code.at(a["states"], b.mul(t, slot))
        to = code.at(source, slot)
        if bf16:  # two places: another thread may still read the time step before
            low, _ = _alternating(code, a["rounded"], t, b.mul(a["rows"], words))
        if factors:
            with at_block_end(code, a, t):
                discount(code, a, recipe.parts, span, code.at(a["factors"], b.mul(b.sdiv(t, a["every"]), a["rows"])))

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
                if bf16 and c < recipe.gates:
                    code.store_rounded(value, code.half_at(low, b.mul(i, inner), b.mul(d, code.index(c)), j))
            zero = V(code, code.constant(0.0))
            for q, p in enumerate(rest):
                code.store(result.direct[q] if q < len(result.direct) else zero, p)

        code.each(
            a["first"], a["stop"], 1, lambda i: _ignore(code.each(a["left"], a["right"], w, lambda j: element(i, j)))
        )

        def panel(j: Any) -> None:
            weights = code.at(a["weight"], b.mul(j, words))

            def tile(i: Any, height: int) -> None:
                rows = [b.add(i, code.index(r)) for r in range(height)]
                columns = b.mul(d, code.index(recipe.columns))
                grads = [code.at(a["grads"], b.mul(b.add(base, row), columns)) for row in rows]
                if bf16:
                    grads = [code.at(low, b.mul(row, words)) for row in rows]
                places = [
                    [code.at(a["rest"], b.mul(row, span), last, j, code.index(p * w)) for row in rows]
                    for p in range(panels)
                ]
                start = [[code.load(p) for p in line] for line in places]
                totals = product(code, words, weights, grads, start, bf16)
                for line, values in zip(places, totals, strict=True):
                    for place, total in zip(line, values, strict=True):
                        code.store(total, place)

            tiles(code, a["first"], a["stop"], heights(target, panels), tile)

        if recipe.gates:
            meet(code, a, back)  # the product reads the gradients of all units and adds to this thread's own
            code.each(a["left"], a["right"], panels * w, panel)

    code.each(code.index(0), a["steps"], 1, step)
    b.ret_void()
    return str(module)


def _ignore(value: Any) -> None:
    """Ignore the end of a loop."""


def _alternating(code: Code, pointer: Any, t: Any, size: Any) -> tuple[Any, Any]:
    """Return the places of this time step's and the next one's numbers, of two places of `size` words."""
    odd = code.b.and_(t, code.index(1))
    places = [code.at(pointer, code.b.mul(which, size)) for which in (odd, code.b.sub(code.index(1), odd))]
    return places[0], places[1]
