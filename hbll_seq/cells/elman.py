"""Elman network: a view on one layer of `nn.RNN`, h' = tanh(W_ih x + b_ih + W_hh h + b_hh) (or relu).

Carry: (1 - h'^2) W_hh[j,j] (relu: W_hh[j,j] where the unit is on).
"""

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Advance, Cell, Roll, SequenceRoll
from hbll_seq.cells.fused import DenseRoll
from hbll_seq.kernels import recipes
from hbll_seq.kernels.buffers import linear
from hbll_seq.kernels.roll import fused

TANH, RELU = recipes.Elman(), recipes.Elman(relu=True)


class ElmanCell(Cell):
    """Layer `layer` of an `nn.RNN`."""

    compiled_roll = DenseRoll

    def __init__(self, module: nn.RNN, layer: int) -> None:
        self.w_ih: nn.Parameter = getattr(module, f"weight_ih_l{layer}")
        self.w_hh: nn.Parameter = getattr(module, f"weight_hh_l{layer}")
        self.b_ih: nn.Parameter | None = getattr(module, f"bias_ih_l{layer}", None)
        self.b_hh: nn.Parameter | None = getattr(module, f"bias_hh_l{layer}", None)
        self.relu = module.nonlinearity == "relu"
        self.bound = None if self.relu else 1.0
        self.recipe = RELU if self.relu else TANH
        self.input_size = self.w_ih.shape[1]
        self.hidden_size = self.state_size = self.memory_size = self.w_hh.shape[1]

    def parameters(self) -> list[nn.Parameter]:
        """W_ih, W_hh, b_ih, b_hh (the biases where the module has them)."""
        return [p for p in (self.w_ih, self.w_hh, self.b_ih, self.b_hh) if p is not None]

    def project(self, x: Tensor) -> Tensor:
        """`(..., D) -> (..., d)`."""
        return self.product(x, self.w_ih, self.b_ih)

    def projected(self, x: Tensor) -> Tensor:
        """See `Cell.projected`."""
        return linear(x, self.w_ih, self.b_ih)

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """See `Cell.recurrent`."""
        return self.w_hh, self.b_hh

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """See the module docstring."""
        drive = p + self.product(state, self.w_hh, self.b_hh)
        new = torch.relu(drive) if self.relu else torch.tanh(drive)
        slope = (new > 0).to(new.dtype) if self.relu else 1 - new * new
        return Advance(new, (slope * self.w_hh.diagonal()).detach(), None)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The sequential chain by PyTorch's own `rnn_tanh` / `rnn_relu`."""
        return self._run(x, state, True)

    def run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The same, time first."""
        return self._run(x, state, False)

    def _run(self, x: Tensor, state: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        function = torch.rnn_relu if self.relu else torch.rnn_tanh
        weights: list[Tensor] = [*self.parameters()]
        out, end = function(
            x, state.unsqueeze(0), weights, self.b_ih is not None, 1, 0.0, self.w_hh.requires_grad, False, batch_first
        )
        return out, end[0]

    def block_carry(self, p: Tensor, start: Tensor, outputs: Tensor, end: Tensor) -> tuple[Tensor, Tensor | None]:
        """The slope at every output times the diagonal weight."""
        slope = (outputs > 0).to(outputs.dtype) if self.relu else 1 - outputs * outputs
        return (slope * self.w_hh.diagonal()).prod(0), None

    def roll(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> Roll:
        """The fused roll where it can be used, otherwise all steps in one call of PyTorch's `rnn_tanh` / `rnn_relu`."""
        if fused(state):
            return DenseRoll(self, x, projected, state, keep=keep, carry=carry)
        return SequenceRoll(self, x, state, keep=keep, projected=projected, carry=carry)
