"""An affine scan on a GPU: one launch, columns in parallel, rows composed in tiles.

A program owns `COLS` columns. It reads `ROWS` maps at a time, composes them on the chip in
log2(ROWS) levels (`tl.associative_scan`), applies them to the last row of the tile before, and
passes on its own last row. Everything is read once and written once, as in the CPU's loop. Only the
last tile can have rows past the end, and nothing is passed on from it.

The reference is `torch_scan.py`. Import this module only where triton is installed (`scan.backends()`). With
TRITON_INTERPRET=1 set before the import the same code runs on the CPU, slowly; the tests do that.
"""

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional, comes with CUDA builds of torch
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]  # as above
from torch import Tensor

from hbll_seq.kernels.triton_launch import launch

ROWS, COLS = 32, 32  # 1024 maps a tile: 8 of each array a thread at 128 threads


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]  # triton has no types
def _compose(a1: tl.tensor, b1: tl.tensor, a2: tl.tensor, b2: tl.tensor):  # type: ignore[no-untyped-def]  # triton reads this
    return a1 * a2, a2 * b1 + b2


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]  # as above
def _scan(a_ptr, b_ptr, h_ptr, n, columns, REVERSE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):  # type: ignore[no-untyped-def]  # as above
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    row = tl.arange(0, ROWS)
    inside = col < columns
    wide = tl.cast(columns, tl.int64)  # n * columns may pass 2^31
    start = n * wide if REVERSE else 0
    carried = tl.load(h_ptr + start + col, mask=inside, other=0.0)
    for done in range(0, n, ROWS):
        k = done + row
        i = (n - 1 - k) if REVERSE else k  # which map
        to = i if REVERSE else i + 1  # which boundary it gives
        live = (k < n)[:, None] & inside[None, :]
        a = tl.load(a_ptr + i[:, None] * wide + col[None, :], mask=live, other=0.0)
        b = tl.load(b_ptr + i[:, None] * wide + col[None, :], mask=live, other=0.0)
        a, b = tl.associative_scan((a, b), 0, _compose)
        h = a * carried[None, :] + b
        tl.store(h_ptr + to[:, None] * wide + col[None, :], h, mask=live)
        carried = tl.sum(tl.where((row == ROWS - 1)[:, None], h, 0.0), 0)  # the last row; triton cannot index


def affine_scan(a: Tensor, b: Tensor, start: Tensor, *, reverse: bool = False) -> Tensor:
    """Scan on a CUDA device (or the interpreter), float32 or float64, no gradient; see `torch_scan.affine_scan`."""
    n, columns = a.shape[0], start.numel()
    h = torch.empty(n + 1, columns, dtype=a.dtype, device=a.device)
    h[-1 if reverse else 0] = start.detach().reshape(columns)
    maps = a.detach().contiguous(), b.detach().contiguous()
    launch(_scan, triton.cdiv(columns, COLS), a.device, *maps, h, n, columns, REVERSE=reverse, ROWS=ROWS, COLS=COLS)
    return h.view(n + 1, *start.shape)
