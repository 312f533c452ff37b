"""The uncompiled roll of a GRU: by hand in plain torch (the reference), or by Triton on a GPU."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hbll_seq.kernels import scan
from hbll_seq.kernels.buffers import Borrower, give
from hbll_seq.kernels.gru_reference import ReferenceGRURoll, product

if TYPE_CHECKING:
    from hbll_seq.cells.base import Cell
    from hbll_seq.cells.gru import GRUCell
    from hbll_seq.kernels.triton_gru import TritonGRURoll

WIDEST = 512  # most units: a program of the Triton roll reads all weights every time step


def _kind(state: Tensor, units: int) -> "type[ReferenceGRURoll] | type[TritonGRURoll]":
    """Choose Triton's roll on a GPU, if it is installed; wider layers fill the GPU step by step."""
    if state.dtype != torch.float32 or units > WIDEST or not scan.runs_on("triton", state.device.type):
        return ReferenceGRURoll
    from hbll_seq.kernels.triton_gru import TritonGRURoll  # not installed everywhere

    return TritonGRURoll


class GRURoll(Borrower):
    """The `Roll` of a GRU on any device and in any dtype.

    Args:
        gru: its weights.
        cell: the cell that projects the input: `gru` itself or a wrapper.
        x: `(K, N, D)`.
        state: `(N, d)`.
        keep: False if only ends are wanted.
        projected: `(K, N, 3d)`, or None to compute it here.
        bf16: see `cells.mixed`.
    """

    link: Tensor | None = None

    def __init__(
        self, gru: "GRUCell", cell: "Cell", x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None,
        bf16: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._gru, self._x, self._bf16 = gru, x, bf16
        given = cell.projected(x) if projected is None else projected
        with torch.no_grad():
            b_hh = gru.b_hh if gru.b_hh is not None else gru.w_hh.new_zeros(3 * gru.hidden_size)
            kind = _kind(state, gru.hidden_size)
            self.step_by_step = kind is ReferenceGRURoll
            self._roll = kind(given, gru.w_hh.detach(), b_hh.detach(), state.detach(), keep=keep, bf16=bf16)
        if projected is None:
            give(given)  # the backward pass does not read it
        self.outputs: Tensor | None = self._roll.outputs
        self.end: Tensor = self._roll.end
        self.carry: Tensor = self._roll.carry

    def backward_state(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """See `Roll.backward_state`."""
        return self._roll.backward_state(dout, dend)

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """See `Roll.gradients`."""
        with torch.no_grad():
            dgi, dw_hh, db_hh = self._roll.weight_grads()
            flat = dgi.flatten(0, 1)  # (K*N, 3d)
            dx = product(flat, self._gru.w_ih, self._bf16).view_as(self._x) if inputs else None
            grads: list[Tensor | None] = [product(flat.T, self._x.flatten(0, 1), self._bf16), dw_hh]
            if self._gru.b_ih is not None:
                grads += [flat.sum(0), db_hh]
            return dx, grads

    def release(self) -> None:
        """See `Borrower.release`."""
        if not self.released:
            self._roll.release()
        super().release()
