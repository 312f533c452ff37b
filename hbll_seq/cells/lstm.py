"""LSTM: a view on one layer of `nn.LSTM` (gates i, f, g, o). State layout `[c | h]`.

    c' = f * c + i * g        h' = o * tanh(c')

Carry: the forget gate f on the cell state. Link: o * (1 - tanh(c')^2), the derivative of the
hidden output by the cell state.
"""

import torch
from torch import Tensor
from torch.nn import functional

from hbll_seq.cells.base import Advance
from hbll_seq.cells.dense import DenseCell
from hbll_seq.kernels import recipes


class LSTMCell(DenseCell):
    """The cell of layer `layer` of an `nn.LSTM`."""

    bound = 1.0  # of the visible part only
    recipe = recipes.LSTM()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Make one time step; see the module docstring."""
        d = self.hidden_size
        c, h = state[:, :d], state[:, d:]
        i, f, g, o = (p + self.product(h, self.w_hh, self.b_hh)).chunk(4, 1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        new = f * c + i * g
        squashed = torch.tanh(new)
        link = (o * (1 - squashed * squashed)).detach()
        return Advance(torch.cat([new, o * squashed], 1), f.detach(), link)

    def _step_by_torch(self, x: Tensor, state: Tensor) -> Tensor:
        d = self.hidden_size
        h, c = torch.lstm_cell(x, [state[:, d:], state[:, :d]], self.w_ih, self.w_hh, self.b_ih, self.b_hh)
        return torch.cat([c, h], 1)

    def _by_torch(self, x: Tensor, state: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        d = self.hidden_size
        start = [state[None, :, d:], state[None, :, :d]]
        if state.device.type != "cpu":  # cuDNN reads memory in order
            start = [one.contiguous() for one in start]
        out, h, c = torch.lstm(x, start, *self._arguments(batch_first))
        return out, torch.cat([c, h], 2)[0]

    def block_carry(self, p: Tensor, start: Tensor, outputs: Tensor, end: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return carry and link: forget gates of all time steps from one product, output gate of the last."""
        d = self.hidden_size
        before = torch.cat([start[None, :, d:], outputs[:-1]])  # (K, N, d)
        bias = self.b_hh if self.b_hh is not None else p.new_zeros(4 * d)
        forget = p[..., d : 2 * d] + functional.linear(before, self.w_hh[d : 2 * d], bias[d : 2 * d])
        out = torch.sigmoid(p[-1, :, 3 * d :] + functional.linear(before[-1], self.w_hh[3 * d :], bias[3 * d :]))
        return torch.sigmoid(forget).prod(0), out * (1 - torch.tanh(end[:, :d]).square())
