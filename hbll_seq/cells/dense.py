"""The shared part of the cells of `nn.GRU`, `nn.LSTM` and `nn.RNN`: weights, projection, and the choice of the roll.

A gate's drive is the sum of `W_ih x + b_ih`, which needs no state and is projected first, and `W_hh h + b_hh`. Each
cell has a module of its own for its equations, carry and recipe.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from hbll_seq.cells.autograd_rolls import SequenceRoll
from hbll_seq.cells.base import Cell, Roll
from hbll_seq.cells.fused import DenseRoll
from hbll_seq.kernels.buffers import linear
from hbll_seq.kernels.recipes import Recipe


class DenseCell(Cell):
    """The cell of layer `layer` of one of PyTorch's recurrent modules.

    Args:
        module: a module with parameters named as in `nn.GRU`.
        layer: counted from 0.
        suffix: "" for the forward direction, "_reverse" for the backward one.
    """

    compiled_roll = DenseRoll
    recipe: Recipe

    def __init__(self, module: nn.RNNBase, layer: int, suffix: str = "") -> None:
        name = f"_l{layer}{suffix}"
        self.w_ih: Tensor = getattr(module, f"weight_ih{name}")  # (gates * d, D)
        self.w_hh: Tensor = getattr(module, f"weight_hh{name}")  # (gates * d, d)
        self.b_ih: Tensor | None = getattr(module, f"bias_ih{name}", None)
        self.b_hh: Tensor | None = getattr(module, f"bias_hh{name}", None)
        self.input_size = self.w_ih.shape[1]
        self.hidden_size = self.memory_size = self.w_hh.shape[1]
        self.state_size = self.recipe.parts * self.hidden_size

    def parameters(self) -> list[Tensor]:
        """Return W_ih, W_hh, b_ih, b_hh (the biases if the module has them)."""
        return [p for p in (self.w_ih, self.w_hh, self.b_ih, self.b_hh) if p is not None]

    def project(self, x: Tensor) -> Tensor:
        """Map `(..., D) -> (..., gates * d)`."""
        return self.product(x, self.w_ih, self.b_ih)

    def projected(self, x: Tensor) -> Tensor:
        """See `Cell.projected`."""
        return linear(x, self.w_ih, self.b_ih)

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """See `Cell.recurrent`."""
        return self.w_hh, self.b_hh

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run the sequential chain by PyTorch's own function for that cell."""
        return self._by_torch(x, state, True)

    def run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do `sequence` with time first."""
        return self._by_torch(x, state, False)

    def deployed_step(self, x: Tensor, state: Tensor) -> Tensor:
        """Do `step` without gradient by PyTorch's own function, which computes no carry."""
        with torch.no_grad():
            return self._step_by_torch(x, state)

    @abstractmethod
    def _step_by_torch(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the new state `(N, S)` after one time step."""

    @abstractmethod
    def _by_torch(self, x: Tensor, state: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        """Return outputs and final state `(N, S)`."""

    def _arguments(self, batch_first: bool) -> tuple[list[Tensor], bool, int, float, bool, bool, bool]:
        """Return the arguments of PyTorch's functions after input and state.

        They are weights, has_biases, layers, dropout, training, bidirectional, batch_first.
        """
        train = torch.is_grad_enabled() and self.w_hh.requires_grad  # oneDNN then writes what its backward reads
        return [*self.parameters()], self.b_ih is not None, 1, 0.0, train, False, batch_first

    def _roll_uncompiled(self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool) -> Roll:
        """Roll all time steps in one call of PyTorch."""
        return SequenceRoll(self, x, state, keep=keep, projected=projected, carry=carry)
