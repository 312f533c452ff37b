"""LLVM code of a roll without gradient: all K time steps of a range of rows, and nothing kept but the outputs.

`emit.forward` with `keep` writes the saved values of a backward that never comes, up to five numbers a unit for each
output. Here a time step writes its state, which alternates between two places, and its output. Input and outputs are
batch first, as callers have them, so nothing is transposed. Arithmetic and its order are those of `emit.forward`.
"""

from typing import Any

from hbll_seq.kernels.emit_team import Target, begin, meet
from hbll_seq.kernels.emit_tiles import heights, product, tiles
from hbll_seq.kernels.recipes import Recipe
from hbll_seq.kernels.vector import V

OUTPUTS = ("given", "weight", "bias", "states", "outputs")
EVEN = 4  # a thread's share of rows is a multiple of this


def outputs(recipe: Recipe, target: Target, name: str) -> str:
    """Write a module with function `name`: arguments `OUTPUTS` (pointers) and `SIZES` (int64); rows first..stop.

    given `(N, K, inputs, d)`, weight `(d / w, d, gates, w)`, bias `(gates, d)`, states `(2, N, parts, d)` with the
    start in the first place, outputs `(N, K, d)`. The end is in place `K % 2` of the states.
    """
    module, code, a = begin(name, OUTPUTS, target, EVEN, target.width)
    b, d = code.b, a["units"]
    span = b.mul(d, code.index(recipe.parts))
    slot = b.mul(span, a["rows"])
    nothing = V(code, code.constant(0.0))

    def step(t: Any) -> None:
        odd = b.and_(t, code.index(1))
        source = code.at(a["states"], b.mul(odd, slot))
        to = code.at(a["states"], b.mul(b.sub(code.index(1), odd), slot))

        def panel(j: Any) -> None:
            weights = code.at(a["weight"], b.mul(b.mul(j, d), code.index(recipe.gates)))

            def tile(i: Any, height: int) -> None:
                rows = [b.add(i, code.index(r)) for r in range(height)]
                before = [code.at(source, b.mul(row, span)) for row in rows]
                biases = [code.load(code.at(a["bias"], b.mul(d, code.index(g)), j)) for g in range(recipe.gates)]
                visible = [code.at(p, b.mul(d, code.index(recipe.parts - 1))) for p in before]
                products = product(code, d, weights, visible, [[bias] * height for bias in biases])
                for r, row in enumerate(rows):
                    which = b.mul(b.add(b.mul(row, a["steps"]), t), d)
                    old = [code.load(code.at(before[r], b.mul(d, code.index(q)), j)) for q in range(recipe.parts)]
                    first = code.at(a["given"], b.mul(which, code.index(recipe.inputs)), j)
                    given = [code.load(code.at(first, b.mul(d, code.index(g)))) for g in range(recipe.inputs)]
                    new = recipe.forward(old, given, [gate[r] for gate in products], lambda c: nothing)
                    for q, part in enumerate(new.state):
                        code.store(part, code.at(to, b.mul(row, span), b.mul(d, code.index(q)), j))
                    code.store(new.state[-1], code.at(a["outputs"], which, j))

            tiles(code, a["first"], a["stop"], heights(target, recipe.gates), tile)

        code.each(a["left"], a["right"], target.width, panel)
        if recipe.gates:
            meet(code, a, t)  # the next time step reads all units of this one

    code.each(code.index(0), a["steps"], 1, step)
    b.ret_void()
    return str(module)
