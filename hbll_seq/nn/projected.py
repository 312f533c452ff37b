"""A projecting LSTM as a plain one, so that everything for plain LSTMs runs it.

PyTorch's projecting LSTM feeds h = W_hr u back, with u = o * tanh(c). Its gates see W_hh h = (W_hh W_hr) u. So it is a
plain LSTM with visible part u and recurrent weights W_hh W_hr, whose outputs are projected afterwards. A start h_0 has
no u; the drive W_hh h_0 enters as an input of the first time step.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.cells.lstm import LSTMCell


class Projected:
    """One direction of a layer of a projecting LSTM; its state is `[c | h]`, `(B, d + proj_size)`.

    Args:
        module: an LSTM with `proj_size`.
        layer: counted from 0.
        suffix: as for `DenseCell`.
    """

    def __init__(self, module: nn.RNNBase, layer: int, suffix: str = "") -> None:
        self._plain = LSTMCell(module, layer, suffix)
        self._w_hr: Tensor = getattr(module, f"weight_hr_l{layer}{suffix}")  # (proj_size, d)

    @property
    def plain(self) -> LSTMCell:
        """The LSTM without its projection."""
        return self._plain

    def parameters(self) -> list[Tensor]:
        """Return the weights."""
        return [*self._plain.parameters(), self._w_hr]

    def enter(self, x: Tensor, start: Tensor | None) -> tuple[LSTMCell, Tensor, Tensor]:
        """Return the plain cell, its inputs, and its start `(B, 2d)`.

        Args:
            x: `(B, T, D)`.
            start: `(B, d + proj_size)`, or None for zero.
        """
        d = self._w_hr.shape[1]
        cell = LSTMCell.__new__(LSTMCell)
        vars(cell).update(vars(self._plain))
        cell.w_hh = self._plain.w_hh @ self._w_hr
        cell.hidden_size = cell.memory_size = d
        cell.state_size = 2 * d
        if start is None:
            return cell, x, cell.initial(len(x), self._w_hr.detach())
        first = start[:, None, d:]  # (B, 1, proj_size)
        x = torch.cat([x, functional.pad(first, (0, 0, 0, x.shape[1] - 1))], -1)
        cell.w_ih = torch.cat([self._plain.w_ih, self._plain.w_hh], 1)
        cell.input_size = cell.w_ih.shape[1]
        return cell, x, functional.pad(start[:, :d], (0, d))

    def leave(self, outputs: Tensor, end: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Project the plain cell's outputs and the visible part of its last state."""
        d = self._w_hr.shape[1]
        projected = functional.linear(outputs, self._w_hr)
        return projected, None if end is None else torch.cat([end[:, :d], functional.linear(end[:, d:], self._w_hr)], 1)
