"""Pointwise parts of the GRU roll in float32, fused and vectorised by numba.

LLVM vectorises a loop only if it has no calls, and numba's exp and tanh are calls. So the gates use an
exponential of our own: 2^y = 2^k 2^f with k = round(y), f in [-1/2, 1/2], a polynomial of degree 6 for
2^f (fitted here at import, error below 1e-7), and 2^k written into the exponent bits. Then

    sigmoid(x) = 1 / (1 + 2^(-x log2 e))        tanh(x) = 2 sigmoid(2x) - 1

within 3e-7 of the true values, saturating exactly, NaN passing through. The loops touch a dozen arrays;
LLVM gives up on vectorising when it would have to check more than a few pairs for overlap, hence the
raised threshold.
"""

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from hbll_seq.kernels.compiled import compiled

llvm.set_option("", "--runtime-memory-check-threshold=1000")
llvm.set_option("", "--memory-check-merge-threshold=1000")

_nodes = 0.5 * np.cos(np.linspace(0, np.pi, 400))
_fit = np.polynomial.chebyshev.Chebyshev.fit(_nodes, 2.0**_nodes, 6, domain=[-0.5, 0.5])
C0, C1, C2, C3, C4, C5, C6 = (np.float32(c) for c in _fit.convert(kind=np.polynomial.Polynomial).coef)
ONE, TWO, LIMIT = np.float32(1), np.float32(2), np.float32(60)
SIGMOID, TANH = np.float32(-1.4426950408889634), np.float32(-2 * 1.4426950408889634)  # -log2 e, -2 log2 e
ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
BIAS, MANTISSA = np.int32(127), np.int32(23)
FAST = {"contract", "nsz", "arcp"}  # not nnan, ninf, reassoc: NaN must pass and the rounding trick must stay


@intrinsic
def _as_float(typingctx, x):
    """The float32 with the bits of an int32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(inline="always")
def _exp2(y: float) -> float:
    # written so that NaN stays NaN: comparisons with NaN are false
    y = LIMIT if y > LIMIT else (-LIMIT if y < -LIMIT else y)
    k = (y + ROUND) - ROUND
    f = y - k
    p = C6
    p = p * f + C5
    p = p * f + C4
    p = p * f + C3
    p = p * f + C2
    p = p * f + C1
    p = p * f + C0
    return p * _as_float((np.int32(k) + BIAS) << MANTISSA)


@njit(inline="always")
def _sigmoid(x: float) -> float:
    return ONE / (ONE + _exp2(x * SIGMOID))


@njit(inline="always")
def _tanh(x: float) -> float:
    return TWO / (ONE + _exp2(x * TANH)) - ONE


@njit(inline="always")
def _row_forward(ir_, iz, in_, hr, hz, hn, br, bz, bn, h, new, sr, sz, sn, sa, carry, wr, wz, wn, keep):
    for j in range(h.shape[0]):
        a = hn[j] + bn[j]
        r = _sigmoid(ir_[j] + hr[j] + br[j])
        z = _sigmoid(iz[j] + hz[j] + bz[j])
        n = _tanh(in_[j] + r * a)
        here = h[j]
        new[j] = n + z * (here - n)
        carry[j] *= z + (ONE - z) * ((ONE - n * n) * r * (wn[j] + (ONE - r) * wr[j] * a) + (here - n) * z * wz[j])
        if keep:
            sr[j], sz[j], sn[j], sa[j] = r, z, n, a


def _forward(gi, gh, b, h, new, saved, carry, diagonal, keep):
    """One step of all rows: gi, gh (N, 3d); b (3d,); h, new, carry (N, d); saved (N or 1, 4d); diagonal (3, d)."""
    d = h.shape[1]
    for i in prange(h.shape[0]):
        s = saved[i] if keep else saved[0]
        _row_forward(
            gi[i, :d], gi[i, d : 2 * d], gi[i, 2 * d :], gh[i, :d], gh[i, d : 2 * d], gh[i, 2 * d :],
            b[:d], b[d : 2 * d], b[2 * d :], h[i], new[i], s[:d], s[d : 2 * d], s[2 * d : 3 * d], s[3 * d :],
            carry[i], diagonal[0], diagonal[1], diagonal[2], keep,
        )  # fmt: skip


@njit(inline="always")
def _row_backward(dh, sr, sz, sn, sa, h, dr, dz, dn, din, rest):
    for j in range(h.shape[0]):
        r, z, n, g = sr[j], sz[j], sn[j], dh[j]
        inner = g * (ONE - z) * (ONE - n * n)
        din[j] = inner
        dn[j] = inner * r
        dr[j] = inner * sa[j] * r * (ONE - r)
        dz[j] = g * (h[j] - n) * z * (ONE - z)
        rest[j] = g * z


def _backward(dh, saved, h, dgh, din, rest):
    """One step back: dh (N, d) on the new state -> dgh (N, 3d), din (N, d), rest (N, d) on the old state."""
    d = h.shape[1]
    for i in prange(h.shape[0]):
        s, g = saved[i], dgh[i]
        _row_backward(
            dh[i],
            s[:d],
            s[d : 2 * d],
            s[2 * d : 3 * d],
            s[3 * d :],
            h[i],
            g[:d],
            g[d : 2 * d],
            g[2 * d :],
            din[i],
            rest[i],
        )


forward_serial, forward_parallel = (compiled(_forward, fastmath=FAST, parallel=p) for p in (False, True))
backward_serial, backward_parallel = (compiled(_backward, fastmath=FAST, parallel=p) for p in (False, True))
