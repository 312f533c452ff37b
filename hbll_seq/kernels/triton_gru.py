"""The roll of a GRU on a GPU: all K time steps of a level in one launch forward and one backward.

`gru_reference.py` is the reference: the formulas are the same, and the tests compare the two.

A program owns `ROWS` rows (blocks times sequences) and takes them through all steps, so nothing waits for other
programs. States and gradients go through global memory between two steps (they are kept anyway, and stay in the
cache); a barrier makes them visible to the program's own threads. The products run on the tensor cores, in the
precision that `torch.get_float32_matmul_precision()` allows, or with `bf16` on factors rounded to bfloat16 (sums in
float32); everything else, states and messages, is float32.

Import this module only where triton is installed. With TRITON_INTERPRET=1 set before the import the same code runs on
the CPU, slowly; the tests do that. **It has not been run on a GPU yet.**
"""

import os

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional, comes with CUDA builds of torch
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]  # as above
from torch import Tensor

from hbll_seq.kernels.buffers import Borrower
from hbll_seq.kernels.gru_reference import product
from hbll_seq.kernels.triton_launch import launch

ROWS, UNITS = 16, 64  # a tile; a tensor core takes at least 16 rows


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]  # triton has no types
def _dot(a, b, total, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]  # triton reads this
    """Return total + a b, a float32, b float32 or bfloat16, by PRECISION: "ieee", "tf32", "bf16", "bf16 by hand"."""
    if PRECISION == "bf16":
        total = tl.dot(a.to(tl.bfloat16), b, total)
    elif PRECISION == "bf16 by hand":  # the interpreter cannot multiply bfloat16
        total = tl.dot(a.to(tl.bfloat16).to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]  # as above
def _forward(  # type: ignore[no-untyped-def]  # as above
    gi, weight, bias, diagonal, states, saved, carry, steps, n, d,
    KEEP: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Roll gi `(K, N, 3d)`: weight `(d, 3d)` transposed, bias `(3d,)`, diagonal `(3, d)`, states `(K+1 or 2, N, d)`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < n
    wide = tl.cast(n, tl.int64) * d  # K * N * d may pass 2^31
    for t in range(steps):
        source = states + (t if KEEP else t % 2) * wide
        to = states + (t + 1 if KEEP else (t + 1) % 2) * wide
        given = gi + t * 3 * wide
        kept = saved + (t * 4 * wide if KEEP else 0)
        for j0 in range(0, d, UNITS):
            j = j0 + tl.arange(0, UNITS)
            known = j < d
            live = here[:, None] & known[None, :]
            at = row[:, None] * d + j[None, :]
            r = tl.zeros((ROWS, UNITS), tl.float32)
            z = tl.zeros((ROWS, UNITS), tl.float32)
            a = tl.zeros((ROWS, UNITS), tl.float32)
            for k0 in range(0, d, UNITS):
                k = k0 + tl.arange(0, UNITS)
                h = tl.load(source + row[:, None] * d + k[None, :], mask=here[:, None] & (k < d)[None, :], other=0.0)
                w = weight + k[:, None] * (3 * d) + j[None, :]
                both = (k < d)[:, None] & known[None, :]
                r = _dot(h, tl.load(w, mask=both, other=0.0), r, PRECISION)
                z = _dot(h, tl.load(w + d, mask=both, other=0.0), z, PRECISION)
                a = _dot(h, tl.load(w + 2 * d, mask=both, other=0.0), a, PRECISION)
            x = given + row[:, None] * (3 * d) + j[None, :]
            r = tl.sigmoid(r + tl.load(bias + j, mask=known, other=0.0)[None, :] + tl.load(x, mask=live, other=0.0))
            z += tl.load(bias + d + j, mask=known, other=0.0)[None, :]
            z = tl.sigmoid(z + tl.load(x + d, mask=live, other=0.0))
            a += tl.load(bias + 2 * d + j, mask=known, other=0.0)[None, :]
            new = 2 * tl.sigmoid(2 * (tl.load(x + 2 * d, mask=live, other=0.0) + r * a)) - 1  # tanh
            gap = tl.load(source + at, mask=live, other=0.0) - new
            tl.store(to + at, new + z * gap, mask=live)
            wr = tl.load(diagonal + j, mask=known, other=0.0)[None, :]
            wz = tl.load(diagonal + d + j, mask=known, other=0.0)[None, :]
            wn = tl.load(diagonal + 2 * d + j, mask=known, other=0.0)[None, :]
            factor = z + (1 - z) * ((1 - new * new) * r * (wn + (1 - r) * wr * a) + gap * z * wz)
            tl.store(carry + at, tl.load(carry + at, mask=live, other=0.0) * factor, mask=live)
            if KEEP:
                place = kept + row[:, None] * (4 * d) + j[None, :]
                tl.store(place, r, mask=live)
                tl.store(place + d, z, mask=live)
                tl.store(place + 2 * d, new, mask=live)
                tl.store(place + 3 * d, a, mask=live)
        tl.debug_barrier()  # the next time step reads results of this program's other threads


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]  # as above
def _backward(  # type: ignore[no-untyped-def]  # as above
    dout, rest, saved, states, weight, grads, steps, n, d,
    HAS: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Turn rest `(N, d)` into that on the start; weight `(3d, d)`, rows n, r, z; grads `(K, N, 4d)`: n, r, z, n in."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < n
    wide = tl.cast(n, tl.int64) * d
    for back in range(steps):
        t = steps - 1 - back
        for j0 in range(0, d, UNITS):
            j = j0 + tl.arange(0, UNITS)
            live = here[:, None] & (j < d)[None, :]
            at = row[:, None] * d + j[None, :]
            g = tl.load(rest + at, mask=live, other=0.0)
            if HAS:
                g += tl.load(dout + t * wide + at, mask=live, other=0.0)
            place = saved + t * 4 * wide + row[:, None] * (4 * d) + j[None, :]
            r = tl.load(place, mask=live, other=0.0)
            z = tl.load(place + d, mask=live, other=0.0)
            new = tl.load(place + 2 * d, mask=live, other=0.0)
            a = tl.load(place + 3 * d, mask=live, other=0.0)
            gap = tl.load(states + t * wide + at, mask=live, other=0.0) - new
            inner = g * (1 - z) * (1 - new * new)
            to = grads + t * 4 * wide + row[:, None] * (4 * d) + j[None, :]
            tl.store(to, inner * r, mask=live)
            tl.store(to + d, inner * a * r * (1 - r), mask=live)
            tl.store(to + 2 * d, g * gap * z * (1 - z), mask=live)
            tl.store(to + 3 * d, inner, mask=live)
            tl.store(rest + at, g * z, mask=live)
        tl.debug_barrier()
        for j0 in range(0, d, UNITS):
            j = j0 + tl.arange(0, UNITS)
            live = here[:, None] & (j < d)[None, :]
            at = row[:, None] * d + j[None, :]
            total = tl.load(rest + at, mask=live, other=0.0)
            for k0 in range(0, 3 * d, UNITS):
                k = k0 + tl.arange(0, UNITS)
                from_ = grads + t * 4 * wide + row[:, None] * (4 * d) + k[None, :]
                g = tl.load(from_, mask=here[:, None] & (k < 3 * d)[None, :], other=0.0)
                both = (k < 3 * d)[:, None] & (j < d)[None, :]
                w = tl.load(weight + k[:, None] * d + j[None, :], mask=both, other=0.0)
                total = _dot(g, w, total, PRECISION)
            tl.store(rest + at, total, mask=live)
        tl.debug_barrier()


def _launch(kernel, n: int, like: Tensor, bf16: bool, *arguments, **constants) -> None:  # type: ignore[no-untyped-def]  # triton's
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    if bf16:
        precision = "bf16 by hand" if os.environ.get("TRITON_INTERPRET") == "1" else "bf16"
    launch(
        kernel, triton.cdiv(n, ROWS), like.device, *arguments, PRECISION=precision, ROWS=ROWS, UNITS=UNITS, **constants
    )


class TritonGRURoll(Borrower):
    """The roll of `gru_reference.ReferenceGRURoll` by Triton, float32."""

    def __init__(self, gi: Tensor, w_hh: Tensor, b_hh: Tensor, h0: Tensor, *, keep: bool, bf16: bool = False) -> None:
        super().__init__()
        k, n, d = gi.shape[0], gi.shape[1], h0.shape[1]
        self._shape, self._bf16 = (k, n, d), bf16
        self.carry = torch.ones_like(h0)
        self._grads: Tensor | None = None
        self._states = self.borrow((k + 1 if keep else 2, n, d), gi)
        self._saved = self.borrow((k, n, 4 * d) if keep else (1,), gi)
        self._states[0] = h0
        diagonal = w_hh.view(3, d, d).diagonal(dim1=1, dim2=2).contiguous()
        self._w = w_hh.bfloat16() if bf16 else w_hh
        _launch(
            _forward, n, gi, bf16, gi.contiguous(), self._w.t().contiguous(), b_hh.contiguous(), diagonal, self._states,
            self._saved, self.carry, k, n, d, KEEP=keep,
        )  # fmt: skip
        self.outputs = self._states[1:] if keep else None
        self.end = self._states[k if keep else k % 2].clone()

    def backward_state(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """Return the gradient `(N, d)` on h0 from those on outputs `(K, N, d)` and end `(N, d)`."""
        assert self.outputs is not None, "rolled with keep=False: nothing to differentiate"
        k, n, d = self._shape
        if self._grads is None:
            self._grads = self.borrow((k, n, 4 * d), self.end)
        rest = torch.zeros_like(self.end) if dend is None else dend.clone(memory_format=torch.contiguous_format)
        weight = torch.cat([self._w[2 * d :], self._w[: 2 * d]])  # rows n, r, z as the gradients' columns
        seen = rest if dout is None else dout.contiguous()
        _launch(
            _backward, n, rest, self._bf16, seen, rest, self._saved, self._states, weight, self._grads, k, n, d,
            HAS=dout is not None,
        )  # fmt: skip
        self._fresh = True
        return rest

    def weight_grads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return dgi `(K, N, 3d)` (a view on a work buffer), dW_hh, db_hh of the latest `backward_state`."""
        assert self._grads is not None and self._fresh, "backward_state comes first, once each"
        k, n, d = self._shape
        self._fresh = False
        flat = self._grads.view(k * n, 4 * d)
        inner = flat[:, : 3 * d]
        dw, db = product(inner.t(), self._states[:-1].view(k * n, d), self._bf16), inner.sum(0)
        back = torch.cat([torch.arange(d, 3 * d), torch.arange(d)]).to(dw.device)  # r, z, n
        return self._grads[..., d:], dw[back], db[back]
