"""GRU: a view on one layer of `nn.GRU` (gates r, z, n; PyTorch's convention).

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)      z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r * (W_hn h + b_hn))   h' = (1 - z) * n + z * h

Carry, the full diagonal of dh'/dh:
    z + (1-z)(1-n^2) (r W_hn[j,j] + r(1-r) W_hr[j,j] (W_hn h + b_hn)_j) + (h-n) z(1-z) W_hz[j,j]
"""

import torch
from torch import Tensor

from hbll_seq.cells.base import Advance, Roll
from hbll_seq.cells.dense import DenseCell
from hbll_seq.cells.gru_roll import GRURoll
from hbll_seq.kernels import recipes


class GRUCell(DenseCell):
    """The cell of layer `layer` of an `nn.GRU`."""

    bound = 1.0
    recipe = recipes.GRU()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Make one time step; see the module docstring."""
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

    def _step_by_torch(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.gru_cell(x, state, self.w_ih, self.w_hh, self.b_ih, self.b_hh)

    def _by_torch(self, x: Tensor, state: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        out, end = torch.gru(x, state.unsqueeze(0), *self._arguments(batch_first))
        return out, end[0]

    def _roll_uncompiled(self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool) -> Roll:
        """Roll by hand: torch's function returns no carry, and computing it from the outputs doubles the work."""
        return GRURoll(self, self, x, state, keep=keep, projected=projected)
