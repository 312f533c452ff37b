"""LSTM: a view on one layer of `nn.LSTM` (gates i, f, g, o). State layout `[c | h]`.

    c' = f * c + i * g        h' = o * tanh(c')

Carry: the forget gate f on the cell state. Link: o * (1 - tanh(c')^2), by which a change of the
cell state shows in the hidden output.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.cells.base import Advance, Cell


class LSTMCell(Cell):
    """Layer `layer` of an `nn.LSTM`."""

    bound = 1.0  # of the visible part only

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
        return functional.linear(x, self.w_ih, self.b_ih)

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """See the module docstring."""
        d = self.hidden_size
        c, h = state[:, :d], state[:, d:]
        i, f, g, o = (p + functional.linear(h, self.w_hh, self.b_hh)).chunk(4, 1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        new = f * c + i * g
        squashed = torch.tanh(new)
        link = (o * (1 - squashed * squashed)).detach()
        return Advance(torch.cat([new, o * squashed], 1), f.detach(), link)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The sequential chain by PyTorch's own `lstm`."""
        d = self.hidden_size
        start = [state[:, d:].unsqueeze(0).contiguous(), state[:, :d].unsqueeze(0).contiguous()]
        out, h, c = torch.lstm(
            x, start, [*self.parameters()], self.b_ih is not None, 1, 0.0, self.w_hh.requires_grad, False, True
        )
        return out, torch.cat([c[0], h[0]], 1)
