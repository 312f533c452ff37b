"""A cell of your own: any `nn.Module` with `forward(x, h) -> h`.

x is `(N, D)`, h and the result `(N, d)`. The module may define its own carry by a method `carry(x, h) -> (N, d)`, the
diagonal of dh'/dh at that time step. Otherwise the carry is estimated. With random signs v, the mean over all rows of
v * (J v) is the diagonal of J on average: the other entries have random signs and cancel (Hutchinson 1990; Bekas et al.
2007). J v is a forward-mode product, one more pass through the cell.
"""

import torch
from torch import Tensor, nn

from hbll_seq.cells.base import Advance, Cell


class UserCell(Cell):
    """A view on a user's module; its attribute `hidden_size` gives the size."""

    def __init__(self, module: nn.Module, input_size: int, hidden_size: int) -> None:
        self.module = module
        self.input_size = input_size
        self.hidden_size = self.state_size = self.memory_size = hidden_size
        self._signs: dict[tuple[torch.Size, torch.dtype, torch.device], Tensor] = {}

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters of the user's module."""
        return list(self.module.parameters())

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Make one time step of the user's module, with its own carry or the estimate."""
        new = self.module(p, state)
        with torch.no_grad():
            own = getattr(self.module, "carry", None)
            carry = own(p, state) if callable(own) else self._estimate(p.detach(), state.detach())
        return Advance(new, carry.detach(), None)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """Make one time step without the carry."""
        return self.module(x, state)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Run the sequential chain, step by step, without the carry."""
        outputs = []
        for now in x.unbind(1):
            state = self.module(now, state)
            outputs.append(state)
        return torch.stack(outputs, 1), state

    def _estimate(self, x: Tensor, state: Tensor) -> Tensor:
        """Estimate the diagonal of the time step's Jacobian, one number per unit, the same for all rows."""
        kind = (state.shape, state.dtype, state.device)
        if kind not in self._signs:  # the same signs at every time step and call: results repeat
            g = torch.Generator().manual_seed(0)
            self._signs[kind] = torch.randint(0, 2, state.shape, generator=g).to(state) * 2 - 1
        signs = self._signs[kind]
        product = torch.func.jvp(lambda h: self.module(x, h), (state,), (signs,))[1]
        return (product * signs).mean(0, keepdim=True).expand_as(state)
