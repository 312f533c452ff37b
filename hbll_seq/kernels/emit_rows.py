"""LLVM code around the rolls: softmax with its gradient, and sums of rows by index.

PyTorch makes several passes over all rows for both; here each row is read once while it is in the cache. PyTorch's
`cross_entropy` and `index_add` are the references of their tests.
"""

import math
from typing import Any

from hbll_seq.kernels.emit_team import Target, begin
from hbll_seq.kernels.vector import F32, V

SOFTMAX = ("logits", "targets", "weights", "sums", "gaps")
ADD = ("values", "index", "table")


def softmax(target: Target, name: str) -> str:
    """Write a module with function `name`: arguments `SOFTMAX` and `SIZES`, for rows first..stop (steps is not used).

    logits `(rows, units)` become the gradient of the weighted cross-entropy, `weight * (softmax - one-hot)`; targets
    `(rows,)` int64, weights `(rows,)`. The loss of a row is `log(sums) + gaps`: sums `(rows,)` of exponentials below
    the largest logit, gaps `(rows,)` from the target's logit up to the largest.
    """
    module, code, a = begin(name, SOFTMAX, target, 1)
    b, w, units = code.b, target.width, a["units"]
    count = b.sdiv(units, code.index(w))

    def row(i: Any) -> None:
        here = code.at(a["logits"], b.mul(i, units))
        chosen = code.at(here, code.integer_at(a["targets"], i))
        own = b.load(chosen, align=4, typ=F32)

        def place(k: Any) -> Any:
            return code.at(here, b.mul(k, code.index(w)))

        (top,) = code.fold(count, [code.load(here)], lambda k, v: [v[0].larger(code.load(place(k)))])
        top = top.across(V.larger)

        def exponential(k: Any, total: list[V]) -> list[V]:
            e = ((code.load(place(k)) - top) * math.log2(math.e)).exp2()
            code.store(e, place(k))
            return [total[0] + e]

        (total,) = code.fold(count, [V(code, code.constant(0.0))], exponential)
        total = total.across(V.__add__)
        factor = code.splat(code.at(a["weights"], i)) / total

        def scale(k: Any, nothing: list[V]) -> list[V]:
            code.store(code.load(place(k)) * factor, place(k))
            return nothing

        code.fold(count, [], scale)
        weight = b.load(code.at(a["weights"], i), align=4, typ=F32)
        b.store(b.fsub(b.load(chosen, align=4, typ=F32), weight), chosen, align=4)
        b.store(total.first(), code.at(a["sums"], i), align=4)
        b.store(b.fsub(top.first(), own), code.at(a["gaps"], i), align=4)

    code.each(a["first"], a["stop"], 1, row)
    b.ret_void()
    return str(module)


def add_by_index(target: Target, name: str) -> str:
    """Write a module with function `name`: arguments `ADD` and `SIZES`; `table[index[m]] += values[m]`, vectors
    first..stop.

    values `(steps, units)` (the first `rows` vectors of each row count), index `(steps,)` int64, table
    `(V, rows * w)`. Threads share columns, not rows, so that none waits for another.
    """
    module, code, a = begin(name, ADD, target, 1)
    b, w = code.b, target.width
    wide = b.mul(a["rows"], code.index(w))

    def row(m: Any) -> None:
        source = code.at(a["values"], b.mul(m, a["units"]))
        to = code.at(a["table"], b.mul(code.integer_at(a["index"], m), wide))

        def vector(k: Any) -> None:
            j = b.mul(k, code.index(w))
            code.store(code.load(code.at(to, j)) + code.load(code.at(source, j)), code.at(to, j))

        code.each(a["first"], a["stop"], 1, vector)

    code.each(code.index(0), a["steps"], 1, row)
    b.ret_void()
    return str(module)
