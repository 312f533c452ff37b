"""GRU: a view on one layer of `nn.GRU` (gates r, z, n; PyTorch's convention).

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)      z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))   h' = (1 - z) * n + z * h

Carry, the full diagonal of dh'/dh:
    z + (1-z)(1-n^2) (r W_hn[j,j] + r(1-r) W_hr[j,j] (W_hn h + b_hn)_j) + (h-n) z(1-z) W_hz[j,j]
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Advance, Cell, Roll
from hbll_seq.cells.fused import DenseRoll
from hbll_seq.kernels import recipes, scan
from hbll_seq.kernels.buffers import linear
from hbll_seq.kernels.gru import GRURoll, product
from hbll_seq.kernels.roll import fused

if TYPE_CHECKING:
    from hbll_seq.kernels.triton_gru import TritonGRURoll


class GRUCell(Cell):
    """Layer `layer` of an `nn.GRU`."""

    bound = 1.0
    compiled_roll = DenseRoll
    recipe = recipes.GRU()

    def __init__(self, module: nn.GRU, layer: int) -> None:
        self.w_ih: nn.Parameter = getattr(module, f"weight_ih_l{layer}")
        self.w_hh: nn.Parameter = getattr(module, f"weight_hh_l{layer}")
        self.b_ih: nn.Parameter | None = getattr(module, f"bias_ih_l{layer}", None)
        self.b_hh: nn.Parameter | None = getattr(module, f"bias_hh_l{layer}", None)
        self.input_size = self.w_ih.shape[1]
        self.hidden_size = self.state_size = self.memory_size = self.w_hh.shape[1]

    def parameters(self) -> list[nn.Parameter]:
        """W_ih, W_hh, b_ih, b_hh (the biases where the module has them)."""
        return [p for p in (self.w_ih, self.w_hh, self.b_ih, self.b_hh) if p is not None]

    def project(self, x: Tensor) -> Tensor:
        """`(..., D) -> (..., 3d)`."""
        return self.product(x, self.w_ih, self.b_ih)

    def projected(self, x: Tensor) -> Tensor:
        """See `Cell.projected`."""
        return linear(x, self.w_ih, self.b_ih)

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """See `Cell.recurrent`."""
        return self.w_hh, self.b_hh

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """See the module docstring."""
        d = self.hidden_size
        gh = self.product(state, self.w_hh, self.b_hh)  # (N, 3d)
        r = torch.sigmoid(p[:, :d] + gh[:, :d])
        z = torch.sigmoid(p[:, d : 2 * d] + gh[:, d : 2 * d])
        n = torch.tanh(p[:, 2 * d :] + r * gh[:, 2 * d :])
        new = (1 - z) * n + z * state
        with torch.no_grad():
            rr, zz, nn_ = (self.w_hh[i * d : (i + 1) * d].diagonal() for i in range(3))
            carry = z + (1 - z) * (1 - n * n) * r * (nn_ + (1 - r) * rr * gh[:, 2 * d :])
            carry = carry + (state - n) * z * (1 - z) * zz
        return Advance(new, carry, None)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The sequential chain by PyTorch's own `gru`."""
        weights: list[Tensor] = list(self.parameters())
        out, end = torch.gru(  # args: input, h0, weights, has_biases, layers, dropout, train, both, batch_first
            x,
            state.unsqueeze(0),
            weights,
            self.b_ih is not None,
            1,
            0.0,
            self.w_hh.requires_grad,
            False,
            True,
        )
        return out, end[0]

    def roll(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> Roll:
        """The fused roll where it can be used, otherwise the same by hand in torch."""
        if fused(state):
            return DenseRoll(self, x, projected, state, keep=keep, carry=carry)
        return TorchGRURoll(self, x, state, self.projected(x) if projected is None else projected, keep=keep)


WIDEST = 512  # units up to which a program of the Triton roll reads all weights every step


def _roll_kind(state: Tensor, units: int) -> "type[GRURoll] | type[TritonGRURoll]":
    """Triton's roll on a GPU, where it is installed; wider layers fill the GPU step by step."""
    if state.dtype != torch.float32 or units > WIDEST or not scan.runs_on("triton", state.device.type):
        return GRURoll
    from hbll_seq.kernels.triton_gru import TritonGRURoll  # not installed everywhere

    return TritonGRURoll


class TorchGRURoll:
    """`Roll` of a GRU on any device and in any dtype: PyTorch operations, or Triton; with `bf16` see `cells.mixed`."""

    link: Tensor | None = None

    def __init__(
        self, cell: GRUCell, x: Tensor, state: Tensor, given: Tensor, *, keep: bool, bf16: bool = False
    ) -> None:
        self._cell, self._x, self._bf16 = cell, x, bf16
        with torch.no_grad():
            b_hh = cell.b_hh if cell.b_hh is not None else cell.w_hh.new_zeros(3 * cell.hidden_size)
            kind = _roll_kind(state, cell.hidden_size)
            self.step_by_step = kind is GRURoll
            self._roll = kind(given, cell.w_hh.detach(), b_hh.detach(), state.detach(), keep=keep, bf16=bf16)
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
            dx = product(flat, self._cell.w_ih, self._bf16).view_as(self._x) if inputs else None
            grads: list[Tensor | None] = [product(flat.T, self._x.flatten(0, 1), self._bf16), dw_hh]
            if self._cell.b_ih is not None:
                grads += [flat.sum(0), db_hh]
            return dx, grads
