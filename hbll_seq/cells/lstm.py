"""LSTM: a view on one layer of `nn.LSTM` (gates i, f, g, o). State layout `[c | h]`.

    c' = f * c + i * g        h' = o * tanh(c')

Carry: the forget gate f on the cell state. Link: o * (1 - tanh(c')^2), by which a change of the
cell state shows in the hidden output.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.cells.base import Advance, Cell, Roll, SequenceRoll
from hbll_seq.cells.fused import DenseRoll
from hbll_seq.kernels import recipes
from hbll_seq.kernels.buffers import linear
from hbll_seq.kernels.roll import fused


class LSTMCell(Cell):
    """Layer `layer` of an `nn.LSTM`."""

    bound = 1.0  # of the visible part only
    compiled_roll = DenseRoll
    recipe = recipes.LSTM()

    def __init__(self, module: nn.LSTM, layer: int) -> None:
        self.w_ih: nn.Parameter = getattr(module, f"weight_ih_l{layer}")
        self.w_hh: nn.Parameter = getattr(module, f"weight_hh_l{layer}")
        self.b_ih: nn.Parameter | None = getattr(module, f"bias_ih_l{layer}", None)
        self.b_hh: nn.Parameter | None = getattr(module, f"bias_hh_l{layer}", None)
        self.input_size = self.w_ih.shape[1]
        self.hidden_size = self.memory_size = self.w_hh.shape[1]
        self.state_size = 2 * self.hidden_size

    def parameters(self) -> list[nn.Parameter]:
        """W_ih, W_hh, b_ih, b_hh (the biases where the module has them)."""
        return [p for p in (self.w_ih, self.w_hh, self.b_ih, self.b_hh) if p is not None]

    def project(self, x: Tensor) -> Tensor:
        """`(..., D) -> (..., 4d)`."""
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
        c, h = state[:, :d], state[:, d:]
        i, f, g, o = (p + self.product(h, self.w_hh, self.b_hh)).chunk(4, 1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        new = f * c + i * g
        squashed = torch.tanh(new)
        link = (o * (1 - squashed * squashed)).detach()
        return Advance(torch.cat([new, o * squashed], 1), f.detach(), link)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The sequential chain by PyTorch's own `lstm`."""
        return self._run(x, state, True)

    def run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The same, time first."""
        return self._run(x, state, False)

    def _run(self, x: Tensor, state: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        d = self.hidden_size
        start = [state[:, d:].unsqueeze(0).contiguous(), state[:, :d].unsqueeze(0).contiguous()]
        weights: list[Tensor] = [*self.parameters()]
        out, h, c = torch.lstm(
            x, start, weights, self.b_ih is not None, 1, 0.0, self.w_hh.requires_grad, False, batch_first
        )
        return out, torch.cat([c[0], h[0]], 1)

    def block_carry(self, p: Tensor, start: Tensor, outputs: Tensor, end: Tensor) -> tuple[Tensor, Tensor | None]:
        """Forget gates of all steps from one product; output gate of the last."""
        d = self.hidden_size
        before = torch.cat([start[None, :, d:], outputs[:-1]])  # (K, N, d)
        bias = self.b_hh if self.b_hh is not None else p.new_zeros(4 * d)
        forget = p[..., d : 2 * d] + functional.linear(before, self.w_hh[d : 2 * d], bias[d : 2 * d])
        out = torch.sigmoid(p[-1, :, 3 * d :] + functional.linear(before[-1], self.w_hh[3 * d :], bias[3 * d :]))
        return torch.sigmoid(forget).prod(0), out * (1 - torch.tanh(end[:, :d]).square())

    def roll(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> Roll:
        """The fused roll where it can be used, otherwise all steps in one call of PyTorch's `lstm`."""
        if fused(state):
            return DenseRoll(self, x, projected, state, keep=keep, carry=carry)
        return SequenceRoll(self, x, state, keep=keep, projected=projected, carry=carry)
