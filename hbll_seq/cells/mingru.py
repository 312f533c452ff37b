"""minGRU (Feng et al. 2024, "Were RNNs all we needed?"): a cell whose gates see only the input.

    z = sigmoid(W_z x + b_z)     c = W_c x + b_c     h' = (1 - z) * h + z * c

Linear in h, so the carry 1 - z is the exact Jacobian and one consistency sweep is the exact rollout.
"""

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Advance, Cell
from hbll_seq.cells.fused import ProjectedRoll
from hbll_seq.kernels import recipes


class MinGRU(nn.Module):
    """The weights of a stack of minGRU layers, named as in `nn.GRU`: `weight_ih_l{k} (2d, D)`, `bias_ih_l{k}`.

    `hbll_seq.nn.MinGRU` is the layer that runs them.

    Args:
        input_size: D.
        hidden_size: d.
        num_layers: depth of the stack.
        bidirectional: every layer has a backward direction too, with the suffix `_reverse`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, bidirectional: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bidirectional = bidirectional
        for layer in range(num_layers):
            fan_in = input_size if layer == 0 else hidden_size * (1 + bidirectional)
            bound = fan_in**-0.5
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                weight = torch.empty(2 * hidden_size, fan_in).uniform_(-bound, bound)
                self.register_parameter(f"weight_ih_l{layer}{suffix}", nn.Parameter(weight))
                self.register_parameter(f"bias_ih_l{layer}{suffix}", nn.Parameter(torch.zeros(2 * hidden_size)))


class MinGRUCell(Cell):
    """The cell of layer `layer` of a `MinGRU`; `suffix` as for `DenseCell`."""

    compiled_roll = ProjectedRoll
    recipe = recipes.MinGRU()

    def __init__(self, module: MinGRU, layer: int, suffix: str = "") -> None:
        self.w_ih: Tensor = getattr(module, f"weight_ih_l{layer}{suffix}")
        self.b_ih: Tensor = getattr(module, f"bias_ih_l{layer}{suffix}")
        self.input_size = self.w_ih.shape[1]
        self.hidden_size = self.state_size = self.memory_size = self.w_ih.shape[0] // 2

    def parameters(self) -> list[Tensor]:
        """Return W_ih `(2d, D)` (gate, candidate) and b_ih."""
        return [self.w_ih, self.b_ih]

    def project(self, x: Tensor) -> Tensor:
        """Return keep gate 1 - z and write z * c: `(..., D) -> (..., 2d)`."""
        gate, candidate = self.product(x, self.w_ih, self.b_ih).chunk(2, -1)
        z = torch.sigmoid(gate)
        return torch.cat([1 - z, z * candidate], -1)

    def deployed_step(self, x: Tensor, state: Tensor) -> Tensor:
        """Do `step` without gradient in fewer operations."""
        with torch.no_grad():
            gate, candidate = self.product(x, self.w_ih, self.b_ih).chunk(2, -1)
            return torch.lerp(state, candidate, torch.sigmoid(gate))

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Make one time step; see the module docstring."""
        keep, write = p.chunk(2, -1)
        return Advance(keep * state + write, keep.detach(), None)
