"""Vector code for the fused rolls: float32 vectors with Python's operators, emitted as LLVM instructions.

A recipe (`recipes.py`) states a cell's formulas once, in ordinary Python on `V`; each operator emits one
instruction. Multiplications and additions may contract to fused multiply-adds, nothing else is relaxed: NaN and
infinity pass through.

Exponentials are written out, because a call would end vectorisation: 2^y = 2^k 2^f with k = round(y), f in [-1/2, 1/2],
a polynomial of degree 6 for 2^f (fitted at import, error below 1e-7). k is rounded by adding 1.5 * 2^23, whose
sum then holds k in its last bits, ready to be shifted into an exponent. Then

    sigmoid(x) = 1 / (1 + 2^(-x log2 e))        tanh(x) = 2 sigmoid(2 x) - 1

within 3e-7 of the true values. Two functions of one step share one division: 1/(uv) gives 1/u and 1/v.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

F32, F64, POINTER = ir.FloatType(), ir.DoubleType(), ir.PointerType()
I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
CONTRACT = ("contract",)
LIMIT = 60.0  # larger exponents are cut: the product of two 1 + 2^60 is still finite

_nodes = 0.5 * np.cos(np.linspace(0, np.pi, 400))
_fit = np.polynomial.chebyshev.Chebyshev.fit(_nodes, 2.0**_nodes, 6, domain=[-0.5, 0.5])
POLYNOMIAL = [float(np.float32(c)) for c in _fit.convert(kind=np.polynomial.Polynomial).coef]


class _BFloat(ir.Type):
    """The type bfloat16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


BF16 = _BFloat()


class V:
    """A vector of float32 values in emitted code."""

    def __init__(self, code: "Code", value: Any) -> None:
        self.code, self.value = code, value

    def _other(self, other: "V | float") -> Any:
        return other.value if isinstance(other, V) else self.code.constant(other)

    def __add__(self, other: "V | float") -> "V":
        return V(self.code, self.code.b.fadd(self.value, self._other(other), flags=CONTRACT))

    def __sub__(self, other: "V | float") -> "V":
        return V(self.code, self.code.b.fsub(self.value, self._other(other), flags=CONTRACT))

    def __rsub__(self, other: float) -> "V":
        return V(self.code, self.code.b.fsub(self._other(other), self.value, flags=CONTRACT))

    def __mul__(self, other: "V | float") -> "V":
        return V(self.code, self.code.b.fmul(self.value, self._other(other), flags=CONTRACT))

    def __truediv__(self, other: "V | float") -> "V":
        return V(self.code, self.code.b.fdiv(self.value, self._other(other)))

    __radd__, __rmul__ = __add__, __mul__

    def where_positive(self, other: "V | float") -> "V":
        """Return `other` where this is above zero, else 0 (NaN counts as above: it must not vanish)."""
        b, zero = self.code.b, self.code.constant(0.0)
        return V(self.code, b.select(b.fcmp_unordered(">", self.value, zero), self._other(other), zero))

    def larger(self, other: "V") -> "V":
        """Return the larger of both; NaN may be lost."""
        b = self.code.b
        return V(self.code, b.select(b.fcmp_ordered(">", other.value, self.value), other.value, self.value))

    def across(self, combine: Callable[["V", "V"], "V"]) -> "V":
        """Combine all places; the result is in every place."""
        code, v, half = self.code, self, self.code.width // 2
        while half:
            order = [ir.Constant(I32, (k + half) % code.width) for k in range(code.width)]
            turned = code.b.shuffle_vector(v.value, v.value, ir.Constant(code.integers, order))
            v, half = combine(v, V(code, turned)), half // 2
        return v

    def first(self) -> Any:
        """Return the number in the first place."""
        return self.code.b.extract_element(self.value, ir.Constant(I32, 0))

    def exp2(self) -> "V":
        """Return 2 to this power."""
        code, b = self.code, self.code.b
        high, low = code.constant(LIMIT), code.constant(-LIMIT)
        # written so that NaN stays NaN: ordered comparisons with NaN are false
        y = b.select(b.fcmp_ordered(">", self.value, high), high, self.value)
        y = V(code, b.select(b.fcmp_ordered("<", y, low), low, y))
        magic = code.constant(12582912.0)  # 1.5 * 2^23
        shifted = b.fadd(y.value, magic)
        f = y - V(code, b.fsub(shifted, magic))
        p = V(code, code.constant(POLYNOMIAL[-1]))
        for c in reversed(POLYNOMIAL[:-1]):
            p = p * f + c
        bits = b.shl(b.bitcast(shifted, code.integers), code.integer(23))
        scale = b.bitcast(b.add(bits, code.integer(127 << 23)), code.vector)
        return p * V(code, scale)


def sigmoid(x: V) -> V:
    """Return sigmoid(x)."""
    return V(x.code, x.code.constant(1.0)) / _one_plus_exp(x, -math.log2(math.e))


def sigmoids(x: V, y: V) -> tuple[V, V]:
    """Return sigmoid(x), sigmoid(y)."""
    u, v = _one_plus_exp(x, -math.log2(math.e)), _one_plus_exp(y, -math.log2(math.e))
    both = V(x.code, x.code.constant(1.0)) / (u * v)
    return v * both, u * both


def sigmoid_tanh(x: V, y: V) -> tuple[V, V]:
    """Return sigmoid(x), tanh(y)."""
    u, v = _one_plus_exp(x, -math.log2(math.e)), _one_plus_exp(y, -2 * math.log2(math.e))
    both = V(x.code, x.code.constant(1.0)) / (u * v)
    return v * both, 2.0 * (u * both) - 1.0


def tanh(x: V) -> V:
    """Return tanh(x)."""
    return V(x.code, x.code.constant(2.0)) / _one_plus_exp(x, -2 * math.log2(math.e)) - 1.0


def _one_plus_exp(x: V, factor: float) -> V:
    return (x * factor).exp2() + 1.0


class Code:
    """The instructions of one function, on vectors of `width` float32."""

    def __init__(self, b: ir.IRBuilder, width: int) -> None:
        self.b, self.width = b, width
        self.vector, self.integers = ir.VectorType(F32, width), ir.VectorType(I32, width)

    def constant(self, value: float) -> Any:
        """Return the same number in every place."""
        return ir.Constant(self.vector, [ir.Constant(F32, float(np.float32(value)))] * self.width)

    def integer(self, value: int) -> Any:
        """Return the same integer in every place."""
        return ir.Constant(self.integers, [ir.Constant(I32, value)] * self.width)

    def index(self, value: int) -> Any:
        """Return a constant index."""
        return ir.Constant(I64, value)

    def at(self, pointer: Any, *offsets: Any) -> Any:
        """Return a pointer to the float32 at the sum of the offsets."""
        for offset in offsets:
            pointer = self.b.gep(pointer, [offset], source_etype=F32)
        return pointer

    def half_at(self, pointer: Any, *offsets: Any) -> Any:
        """Return a pointer to the bfloat16 at the sum of the offsets."""
        for offset in offsets:
            pointer = self.b.gep(pointer, [offset], source_etype=I16)
        return pointer

    def integer_at(self, pointer: Any, offset: Any) -> Any:
        """Return the int64 at an offset."""
        return self.b.load(self.b.gep(pointer, [offset], source_etype=I64), align=8, typ=I64)

    def load(self, pointer: Any) -> V:
        """Load a vector; no alignment is required."""
        return V(self, self.b.load(pointer, align=4, typ=self.vector))

    def store(self, v: V, pointer: Any) -> None:
        """Store a vector; no alignment is required."""
        self.b.store(v.value, pointer, align=4)

    def splat(self, pointer: Any) -> V:
        """Load one number into every place."""
        one = self.b.load(pointer, align=4, typ=F32)
        empty = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(empty, one, ir.Constant(I32, 0))
        return V(self, self.b.shuffle_vector(first, empty, ir.Constant(self.integers, None)))

    def store_rounded(self, v: V, pointer: Any) -> None:
        """Store the numbers rounded to bfloat16, 16 of them."""
        kind = ir.VectorType(BF16, self.width)
        rounded = self.b.call(self._intrinsic("cvtneps2bf16", kind, [self.vector]), [v.value])
        self.b.store(rounded, pointer, align=2)

    def add_pairs(self, total: V, p: V, q: V) -> V:
        """Return `total + p q` where p and q hold pairs of bfloat16 in place of each number: two products a place."""
        pairs = ir.VectorType(BF16, 2 * self.width)
        dot = self._intrinsic("dpbf16ps", self.vector, [self.vector, pairs, pairs])
        return V(self, self.b.call(dot, [total.value, self.b.bitcast(p.value, pairs), self.b.bitcast(q.value, pairs)]))

    def _intrinsic(self, name: str, result: Any, arguments: list[Any]) -> ir.Function:
        full, module = f"llvm.x86.avx512bf16.{name}.512", self.b.module
        if full in module.globals:
            return module.get_global(full)
        return ir.Function(module, ir.FunctionType(result, arguments), full)

    def fold(self, count: Any, values: list[V], body: Callable[[Any, list[V]], list[V]]) -> list[V]:
        """Emit `for i in range(count): values = body(i, values)`; count is at least 1."""
        b, before = self.b, self.b.block
        loop, after = b.append_basic_block("fold"), b.append_basic_block("folded")
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(I64)
        i.add_incoming(self.index(0), before)
        phis = [b.phi(self.vector) for _ in values]
        for phi, v in zip(phis, values, strict=True):
            phi.add_incoming(v.value, before)
        results = body(i, [V(self, phi) for phi in phis])
        following = b.add(i, self.index(1))
        i.add_incoming(following, b.block)
        for phi, v in zip(phis, results, strict=True):
            phi.add_incoming(v.value, b.block)
        b.cbranch(b.icmp_signed("<", following, count), loop, after)
        b.position_at_end(after)
        return results

    def each(self, first: Any, stop: Any, stride: int, body: Callable[[Any], None]) -> Any:
        """Emit `for i in range(first, stop - stride + 1, stride): body(i)`; return the i it stopped at."""
        b, before = self.b, self.b.block
        test, loop, after = (b.append_basic_block(name) for name in ("test", "loop", "after"))
        b.branch(test)
        b.position_at_end(test)
        i = b.phi(I64)
        i.add_incoming(first, before)
        following = b.add(i, self.index(stride))
        b.cbranch(b.icmp_signed("<=", following, stop), loop, after)
        b.position_at_end(loop)
        body(i)
        i.add_incoming(following, b.block)
        b.branch(test)
        b.position_at_end(after)
        return i
