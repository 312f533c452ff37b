"""LLVM code of a loop over symbols: a network reads a symbol, predicts the next one, chooses it, and reads it.

One call of Python for every product and every gate would take many times as long as their arithmetic. Here a symbol's
projected input is a row of a table, each layer is a product and the recipe's formulas, as in `emit_outputs` with one
row, and the choice is that of `models.sampler`: the first symbol whose cumulative weight exceeds a uniform number times
the total.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from hbll_seq.kernels.emit_narrow import narrow
from hbll_seq.kernels.emit_team import Target
from hbll_seq.kernels.emit_tiles import product
from hbll_seq.kernels.recipes import Recipe
from hbll_seq.kernels.vector import F32, F64, I64, POINTER, Code, V

POINTERS = ("symbols", "uniform", "table", "layers", "states", "given", "readout", "offsets", "logits", "weights")
NUMBERS = ("count", "depth", "units", "vocabulary")
LAYER = ("input", "input_bias", "recurrent", "recurrent_bias")  # pointers of a layer, in this order
NARROW = ("keep", "share")
PANELS = 4  # vectors of logits that the read-out's product takes at once: one alone would wait for itself


def continuation(recipe: Recipe, target: Target, name: str, *, greedy: bool, narrowed: bool = False) -> str:
    """Write a module with function `name`: arguments `POINTERS`, `NUMBERS` (int64), `scale` and, if `narrowed`, `keep`
    and `share` (float32).

    symbols `(count + 1,)` int64: the first is read, the others are written. uniform `(count,)` float64, not touched if
    `greedy`. table `(V, inputs, d)` the first layer's projected inputs. layers `(depth, 4)` pointers to the weights of
    `LAYER`, packed as in `emit_outputs`; of the first layer only the recurrent ones are read. states
    `(depth, 2, parts, d)` with the start in the first place; after an even count the end is there too. given
    `(inputs, d)` is room. readout `(W / PANELS / w, d, PANELS, w)` and offsets `(W,)`: the read-out for W >= V symbols,
    whose offset is minus infinity beyond V. logits and weights `(W,)` are room. A symbol's weight is
    `2 ** (scale * (logit - largest))`; `greedy` takes the first largest logit. If `narrowed` the choice is among the
    weights that `emit_narrow` leaves.

    A total that is NaN ends the call: the next symbol is then -1.
    """
    module = ir.Module(name)
    floats = ("scale", *NARROW) if narrowed else ("scale",)
    kinds = [POINTER] * len(POINTERS) + [I64] * len(NUMBERS) + [F32] * len(floats)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    a = dict(zip((*POINTERS, *NUMBERS, *floats), function.args, strict=True))
    code = Code(ir.IRBuilder(function.append_basic_block("entry")), target.width)
    b, d = code.b, a["units"]
    last = code.index(recipe.parts - 1)

    entry, loop, done = b.block, b.append_basic_block("symbol"), b.append_basic_block("done")
    b.cbranch(b.icmp_signed(">", a["count"], code.index(0)), loop, done)
    b.position_at_end(loop)
    i = b.phi(I64)
    i.add_incoming(code.index(0), entry)
    odd = b.and_(i, code.index(1))

    def place(layer: Any, which: Any) -> Any:
        at = b.mul(b.add(b.mul(layer, code.index(2)), which), code.index(recipe.parts))
        return code.at(a["states"], b.mul(at, d))

    def output(layer: Any) -> Any:
        return code.at(place(layer, b.sub(code.index(1), odd)), b.mul(last, d))

    symbol = code.integer_at(a["symbols"], i)
    row = code.at(a["table"], b.mul(symbol, b.mul(d, code.index(recipe.inputs))))
    _cell(code, recipe, a, code.index(0), row, place, odd)

    def upper(layer: Any) -> None:
        _project(code, recipe, a, layer, output(b.sub(layer, code.index(1))))
        _cell(code, recipe, a, layer, a["given"], place, odd)

    code.each(code.index(1), a["depth"], 1, upper)
    _read_out(code, a, output(b.sub(a["depth"], code.index(1))))
    chosen = _choose(code, a, i, greedy)
    following = b.add(i, code.index(1))
    b.store(chosen, b.gep(a["symbols"], [following], source_etype=I64), align=8)
    i.add_incoming(following, b.block)
    more = b.icmp_signed("<", following, a["count"])
    b.cbranch(b.and_(more, b.icmp_signed(">=", chosen, code.index(0))), loop, done)
    b.position_at_end(done)
    b.ret_void()
    return str(module)


def _weights(code: Code, a: dict[str, Any], layer: Any, name: str) -> Any:
    """Load the pointer to a layer's weights."""
    at = code.b.add(code.b.mul(layer, code.index(len(LAYER))), code.index(LAYER.index(name)))
    return code.b.load(code.b.gep(a["layers"], [at], source_etype=I64), align=8, typ=POINTER)


def _gates(code: Code, a: dict[str, Any], layer: Any, name: str, count: int, row: Any, j: Any) -> list[V]:
    """Compute `count` gates of the units at j: weights `name` times a row of d numbers, plus their bias."""
    if not count:
        return []
    b, d = code.b, a["units"]
    weights = code.at(_weights(code, a, layer, name), b.mul(b.mul(j, d), code.index(count)))
    bias = _weights(code, a, layer, f"{name}_bias")
    start = [[code.load(code.at(bias, b.mul(d, code.index(g)), j))] for g in range(count)]
    return [gate[0] for gate in product(code, d, weights, [row], start)]


def _project(code: Code, recipe: Recipe, a: dict[str, Any], layer: Any, below: Any) -> None:
    """Write an upper layer's projected input, from the output of the layer below."""

    def panel(j: Any) -> None:
        raw = _gates(code, a, layer, "input", recipe.inputs, below, j)
        for g, value in enumerate(recipe.project(raw)):
            code.store(value, code.at(a["given"], code.b.mul(a["units"], code.index(g)), j))

    code.each(code.index(0), a["units"], code.width, panel)


def _cell(
    code: Code, recipe: Recipe, a: dict[str, Any], layer: Any, given: Any, place: Callable[[Any, Any], Any], odd: Any
) -> None:
    """Make a layer's time step, from the state in one place to the other."""
    b, d = code.b, a["units"]
    source, to = place(layer, odd), place(layer, b.sub(code.index(1), odd))
    visible = code.at(source, b.mul(d, code.index(recipe.parts - 1)))
    nothing = V(code, code.constant(0.0))

    def panel(j: Any) -> None:
        products = _gates(code, a, layer, "recurrent", recipe.gates, visible, j)
        old = [code.load(code.at(source, b.mul(d, code.index(q)), j)) for q in range(recipe.parts)]
        some = [code.load(code.at(given, b.mul(d, code.index(g)), j)) for g in range(recipe.inputs)]
        new = recipe.forward(old, some, products, lambda c: nothing)
        for q, part in enumerate(new.state):
            code.store(part, code.at(to, b.mul(d, code.index(q)), j))

    code.each(code.index(0), d, code.width, panel)


def _read_out(code: Code, a: dict[str, Any], h: Any) -> None:
    """Write the logits of an output."""
    b, wide = code.b, PANELS * code.width

    def panel(j: Any) -> None:
        weights = code.at(a["readout"], b.mul(j, a["units"]))
        where = [b.add(j, code.index(p * code.width)) for p in range(PANELS)]
        start = [[code.load(code.at(a["offsets"], one))] for one in where]
        for one, total in zip(where, product(code, a["units"], weights, [h], start), strict=True):
            code.store(total[0], code.at(a["logits"], one))

    code.each(code.index(0), _padded(code, a["vocabulary"]), wide, panel)


def _padded(code: Code, count: Any) -> Any:
    """Return W, the next multiple of the read-out's panels."""
    wide = code.index(PANELS * code.width)
    return code.b.mul(code.b.sdiv(code.b.sub(code.b.add(count, wide), code.index(1)), wide), wide)


def _choose(code: Code, a: dict[str, Any], i: Any, greedy: bool) -> Any:
    """Return the next symbol, or -1 if the total of the weights is NaN."""
    b = code.b
    vectors = b.sdiv(_padded(code, a["vocabulary"]), code.index(code.width))

    def at(name: str, k: Any) -> Any:
        return code.at(a[name], b.mul(k, code.index(code.width)))

    first = code.load(a["logits"])
    (top,) = code.fold(vectors, [first], lambda k, v: [v[0].larger(code.load(at("logits", k)))])
    top, scale = top.across(V.larger), _everywhere(code, a["scale"])

    def weigh(k: Any, nothing: list[V]) -> list[V]:
        code.store(((code.load(at("logits", k)) - top) * scale).exp2(), at("weights", k))
        return nothing

    code.fold(vectors, [], weigh)
    total, _ = _running(code, a["weights"], a["vocabulary"], None)
    whole = total
    if "keep" in a:
        narrow(code, a["weights"], vectors, a["keep"], a["share"])
        total, _ = _running(code, a["weights"], a["vocabulary"], None)
    if greedy:
        chosen = _first_equal(code, a["logits"], a["vocabulary"], top.first())
    else:
        uniform = b.load(b.gep(a["uniform"], [i], source_etype=F64), align=8, typ=F64)
        _, chosen = _running(code, a["weights"], a["vocabulary"], b.fmul(uniform, total))
    return b.select(b.fcmp_unordered("uno", whole, whole), code.index(-1), chosen)


def _everywhere(code: Code, number: Any) -> V:
    empty = ir.Constant(code.vector, ir.Undefined)
    first = code.b.insert_element(empty, number, code.index(0))
    return V(code, code.b.shuffle_vector(first, empty, ir.Constant(code.integers, None)))


def _running(code: Code, numbers: Any, count: Any, above: Any | None) -> tuple[Any, Any]:
    """Sum numbers in float64, one after another; return the sum and the index of the last one read.

    With `above` the sum ends as soon as it exceeds that.
    """
    b, before = code.b, code.b.block
    loop, after = b.append_basic_block("add"), b.append_basic_block("added")
    b.branch(loop)
    b.position_at_end(loop)
    k, total = b.phi(I64), b.phi(F64)
    k.add_incoming(code.index(0), before)
    total.add_incoming(F64(0.0), before)
    one = b.fpext(b.load(code.at(numbers, k), align=4, typ=F32), F64)
    now, following = b.fadd(total, one), b.add(k, code.index(1))
    k.add_incoming(following, loop)
    total.add_incoming(now, loop)
    more = b.icmp_signed("<", following, count)
    if above is not None:
        more = b.and_(more, b.fcmp_ordered("<=", now, above))
    b.cbranch(more, loop, after)
    b.position_at_end(after)
    return now, k


def _first_equal(code: Code, numbers: Any, count: Any, wanted: Any) -> Any:
    """Return the index of the first number equal to `wanted`; the last one if there is none."""
    b, before = code.b, code.b.block
    loop, after = b.append_basic_block("look"), b.append_basic_block("found")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(I64)
    k.add_incoming(code.index(0), before)
    other = b.fcmp_unordered("!=", b.load(code.at(numbers, k), align=4, typ=F32), wanted)
    following = b.add(k, code.index(1))
    k.add_incoming(following, loop)
    b.cbranch(b.and_(other, b.icmp_signed("<", following, count)), loop, after)
    b.position_at_end(after)
    return k
