"""LLVM code that narrows a choice: weights outside the k largest, and outside the largest that make a share, become 0.

Weights are at least 0, so their bits as integers are in the order of their values. The smallest weight that stays is
found bit by bit, from the highest: 31 passes over the weights, without sorting. Weights equal to it all stay.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from hbll_seq.kernels.vector import I32, Code, V

HIGHEST = 1 << 30  # the bit below the sign's


def narrow(code: Code, weights: Any, vectors: Any, keep: Any, share: Any) -> None:
    """Narrow the weights in place.

    Args:
        code: where the instructions go.
        weights: pointer to the weights.
        vectors: number of their vectors; weights beyond the last symbol are the smallest of all.
        keep: how many weights stay, float32; the number of symbols for all.
        share: share of the sum that stays at least, float32; above 1 for all.
    """
    one = V(code, code.constant(1.0))
    _drop(code, weights, vectors, lambda least: _at_least(code, weights, vectors, least, one), keep)

    def mass(least: Any) -> Any:
        return _at_least(code, weights, vectors, least, None)

    _drop(code, weights, vectors, mass, code.b.fmul(share, mass(ir.Constant(I32, 0))))


def _drop(code: Code, weights: Any, vectors: Any, measure: Callable[[Any], Any], wanted: Any) -> None:
    """Set weights to 0 below the largest one at which `measure` of it is still at least `wanted`."""
    b, before = code.b, code.b.block
    loop, after = b.append_basic_block("bit"), b.append_basic_block("bits")
    b.branch(loop)
    b.position_at_end(loop)
    bit, least = b.phi(I32), b.phi(I32)
    bit.add_incoming(ir.Constant(I32, HIGHEST), before)
    least.add_incoming(ir.Constant(I32, 0), before)
    tried = b.or_(least, bit)
    found = b.select(b.fcmp_ordered(">=", measure(tried), wanted), tried, least)
    following = b.lshr(bit, ir.Constant(I32, 1))
    bit.add_incoming(following, b.block)
    least.add_incoming(found, b.block)
    b.cbranch(b.icmp_signed(">", following, ir.Constant(I32, 0)), loop, after)
    b.position_at_end(after)

    def keep(k: Any, nothing: list[V]) -> list[V]:
        at = code.at(weights, b.mul(k, code.index(code.width)))
        code.store(_kept(code, code.load(at), found, None), at)
        return nothing

    code.fold(vectors, [], keep)


def _at_least(code: Code, weights: Any, vectors: Any, least: Any, value: V | None) -> Any:
    """Return the sum of `value`, or of the weights, over weights whose bits are at least `least`."""

    def add(k: Any, total: list[V]) -> list[V]:
        weight = code.load(code.at(weights, code.b.mul(k, code.index(code.width))))
        return [total[0] + _kept(code, weight, least, value)]

    (total,) = code.fold(vectors, [V(code, code.constant(0.0))], add)
    return total.across(V.__add__).first()


def _kept(code: Code, weight: V, least: Any, value: V | None) -> V:
    """Return `value`, or the weight, where its bits are at least `least`; else 0."""
    b, empty = code.b, ir.Constant(code.integers, ir.Undefined)
    everywhere = b.shuffle_vector(
        b.insert_element(empty, least, ir.Constant(I32, 0)), empty, ir.Constant(code.integers, None)
    )
    enough = b.icmp_signed(">=", b.bitcast(weight.value, code.integers), everywhere)
    return V(code, b.select(enough, (value or weight).value, code.constant(0.0)))
