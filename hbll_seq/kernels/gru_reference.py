"""The reference roll of a GRU: K time steps of N independent rows, forward and backward by hand in plain torch.

Forward, per step (PyTorch's convention; gi = W_ih x + b_ih comes in, one product for all steps):

    gh = W_hh h                         one (N, d) x (d, 3d) product
    r = s(gi_r + gh_r + b_r)   z = s(gi_z + gh_z + b_z)   a = gh_n + b_n   n = tanh(gi_n + r a)
    h' = n + z (h - n)                  and the carry, see `cells/gru.py`

Backward, per step, with g the gradient on h':

    i = g (1-z)(1-n^2)                  gradient on gi_n
    dgh = [i a r(1-r) | g (h-n) z(1-z) | i r]
    gradient on h = g z + dgh W_hh      one (N, 3d) x (3d, d) product

Weight gradients are one product over all K*N rows at the end: dW_hh = dgh^T h. It runs on any device and in any dtype.
`triton_gru.py` is tested against it, and it against autograd. float32 on the CPU has a compiled roll (`roll.py`). With
`bf16` the factors of these three products are rounded to bfloat16, and nothing else changes (`cells/mixed.py` gives
the reasons).
"""

import torch
from torch import Tensor

from hbll_seq.kernels.buffers import Borrower


def product(a: Tensor, b: Tensor, bf16: bool) -> Tensor:
    """Return `a @ b` `(M, N)`; with `bf16` the factors are rounded to bfloat16, and the result has a's dtype."""
    return (a.bfloat16() @ b.bfloat16()).to(a.dtype) if bf16 else a @ b


class ReferenceGRURoll(Borrower):
    """The roll of a GRU by hand; see the module docstring.

    Attributes:
        outputs: `(K, N, d)` (a view on a work buffer, gone with the release), or None with `keep=False`.
        end: `(N, d)`.
        carry: `(N, d)` product over the steps of the Jacobian's diagonal.
    """

    def __init__(self, gi: Tensor, w_hh: Tensor, b_hh: Tensor, h0: Tensor, *, keep: bool, bf16: bool = False) -> None:
        super().__init__()
        k, n, d = gi.shape[0], gi.shape[1], h0.shape[1]
        self._shape, self._bf16 = (k, n, d), bf16
        gi, weight, b_hh = gi.contiguous(), w_hh.t().contiguous(), b_hh.contiguous()
        diagonal = w_hh.view(3, d, d).diagonal(dim1=1, dim2=2).contiguous()  # (3, d)
        self._w = w_hh.contiguous()
        if bf16:  # once, not every time step
            self._w, weight = self._w.bfloat16(), weight.bfloat16()
        self.carry = torch.ones_like(h0)
        gh = self.borrow((n, 3 * d), gi)
        self._dgh: Tensor | None = None
        self._din: Tensor | None = None
        self._states = self.borrow((k + 1 if keep else 3, n, d), gi)
        self._saved = self.borrow((k if keep else 1, n if keep else 1, 4 * d), gi)
        states, saved = self._states, self._saved
        states[0] = h0
        at = 0
        for step in range(k):
            to = step + 1 if keep else 1 + step % 2
            if bf16:
                gh.copy_(product(states[at], weight, bf16))
            else:
                torch.mm(states[at], weight, out=gh)
            self._forward(gi[step], gh, b_hh, states[at], states[to], saved[step if keep else 0], diagonal, keep)
            at = to
        self.give_back(gh)
        self.outputs = states[1:] if keep else None
        self.end = states[at].clone()

    def _forward(
        self,
        gi: Tensor,
        gh: Tensor,
        b: Tensor,
        h: Tensor,
        new: Tensor,
        saved: Tensor,
        diagonal: Tensor,
        keep: bool,
    ) -> None:
        d = h.shape[1]
        wr, wz, wn = diagonal
        a = gh[:, 2 * d :] + b[2 * d :]
        r, z = torch.sigmoid(gi[:, : 2 * d] + gh[:, : 2 * d] + b[: 2 * d]).split(d, 1)
        n = torch.tanh(gi[:, 2 * d :] + r * a)
        new.copy_(n + z * (h - n))
        self.carry *= z + (1 - z) * ((1 - n * n) * r * (wn + (1 - r) * wr * a) + (h - n) * z * wz)
        if keep:
            torch.cat([r, z, n, a], 1, out=saved)

    def _backward(self, dh: Tensor, saved: Tensor, h: Tensor, dgh: Tensor, din: Tensor, rest: Tensor) -> None:
        r, z, n, a = saved.chunk(4, 1)
        inner = dh * (1 - z) * (1 - n * n)
        din.copy_(inner)
        torch.cat([inner * a * r * (1 - r), dh * (h - n) * z * (1 - z), inner * r], 1, out=dgh)
        rest.copy_(dh * z)

    def backward_state(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """Return the gradient `(N, d)` on h0 from those on outputs `(K, N, d)` and end `(N, d)`."""
        assert self.outputs is not None, "rolled with keep=False: nothing to differentiate"
        k, n, d = self._shape
        if self._dgh is None or self._din is None:
            self._dgh, self._din = self.borrow((k, n, 3 * d), self.end), self.borrow((k, n, d), self.end)
        rest = torch.zeros_like(self.end) if dend is None else dend.clone()
        dh = self.borrow((n, d), self.end)
        for step in range(k - 1, -1, -1):
            if dout is None:
                dh.copy_(rest)
            else:
                torch.add(rest, dout[step], out=dh)
            self._backward(dh, self._saved[step], self._states[step], self._dgh[step], self._din[step], rest)
            if self._bf16:
                rest += product(self._dgh[step], self._w, self._bf16)
            else:
                rest.addmm_(self._dgh[step], self._w)
        self.give_back(dh)
        self._fresh = True
        return rest

    def weight_grads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return dgi `(K, N, 3d)` (a work buffer, valid until the release), dW_hh, db_hh of the latest
        `backward_state`.
        """
        assert self._dgh is not None and self._din is not None and self._fresh, "backward_state comes first, once each"
        k, n, d = self._shape
        flat = self._dgh.view(k * n, 3 * d)
        dw, db = product(flat.t(), self._states[:-1].view(k * n, d), self._bf16), flat.sum(0)
        self._dgh[..., 2 * d :] = self._din  # gi_n is not behind the reset gate
        self._fresh = False
        return self._dgh, dw, db
