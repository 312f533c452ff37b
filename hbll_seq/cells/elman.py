"""Elman network: a view on one layer of `nn.RNN`, h' = tanh(W_ih x + b_ih + W_hh h + b_hh) (or relu).

Carry: (1 - h'^2) W_hh[j,j] (relu: W_hh[j,j] where the unit is on).
"""

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Advance
from hbll_seq.cells.dense import DenseCell
from hbll_seq.kernels import recipes

TANH, RELU = recipes.Elman(), recipes.Elman(relu=True)


class ElmanCell(DenseCell):
    """The cell of layer `layer` of an `nn.RNN`."""

    def __init__(self, module: nn.RNNBase, layer: int, suffix: str = "") -> None:
        self.relu = module.mode == "RNN_RELU"
        self.bound = None if self.relu else 1.0
        self.recipe = RELU if self.relu else TANH
        super().__init__(module, layer, suffix)

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Make one time step; see the module docstring."""
        drive = p + self.product(state, self.w_hh, self.b_hh)
        new = torch.relu(drive) if self.relu else torch.tanh(drive)
        return Advance(new, (self._slope(new) * self.w_hh.diagonal()).detach(), None)

    def _slope(self, new: Tensor) -> Tensor:
        """Return the slope of tanh (or relu) from its result."""
        return (new > 0).to(new.dtype) if self.relu else 1 - new * new

    def _step_by_torch(self, x: Tensor, state: Tensor) -> Tensor:
        function = torch.rnn_relu_cell if self.relu else torch.rnn_tanh_cell
        return function(x, state, self.w_ih, self.w_hh, self.b_ih, self.b_hh)

    def _by_torch(self, x: Tensor, state: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        function = torch.rnn_relu if self.relu else torch.rnn_tanh
        out, end = function(x, state.unsqueeze(0), *self._arguments(batch_first))
        return out, end[0]

    def block_carry(self, p: Tensor, start: Tensor, outputs: Tensor, end: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the product over time steps of slope times diagonal weight."""
        return (self._slope(outputs) * self.w_hh.diagonal()).prod(0), None
