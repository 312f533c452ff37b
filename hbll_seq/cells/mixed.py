"""A cell with bfloat16 products and float32 everything else (`precision="bf16"` of the rule `hbll`).

The products W x and W h of every time step, and the two backward products of each, read both factors rounded to
bfloat16 (by 2^-8 relative at most) and return float32. Weights are float32 masters, rounded once per update. Biases,
gates and the state stay float32: in bfloat16 a gate of 0.999 is 1, and a unit that should forget over a thousand time
steps never would. Gradients of the weights are summed over time steps and blocks in float32.

A cell of your own runs under `torch.autocast`. It rounds the same products, but leaves their results, and values
computed from them, in bfloat16 until they meet a float32 tensor. A gate that keeps a unit for more than some hundred
time steps should be `torch.sigmoid(self.gate(xh).float())`. The returned state is made float32.

On a CPU that multiplies bfloat16 (AVX512-BF16) GRU, LSTM and Elman have compiled rolls for it; they differ from the
float32 ones only in the factors of the products. Any other CPU uses no compiled rolls and emulates the products: it is
tested there, not made for it. **It has not been run on a GPU yet.**
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells.base import Advance, Cell, Roll
from hbll_seq.cells.fused import DenseRoll
from hbll_seq.cells.gru import GRUCell
from hbll_seq.cells.gru_roll import GRURoll
from hbll_seq.cells.wrapped import WrappedCell
from hbll_seq.errors import InputError
from hbll_seq.kernels.roll import rounds

PRECISIONS = ("float32", "bf16")


def in_precision(cell: Cell, precision: str) -> Cell:
    """Return `cell` itself for "float32", a `MixedCell` for "bf16"; valid until the weights change."""
    return MixedCell(cell) if precision == "bf16" else cell


class MixedCell(WrappedCell):
    """A cell with bfloat16 products; see the module docstring.

    Args:
        inner: a cell with float32 parameters.

    Raises:
        InputError: parameters that are not float32, or on a device without autocast.
    """

    compiled_roll = DenseRoll

    def __init__(self, inner: Cell) -> None:
        for p in inner.parameters():
            if p.dtype != torch.float32:
                raise InputError("precision", f'"bf16" for a model in {p.dtype}', "float32 weights, or its default")
            if not torch.amp.is_autocast_available(p.device.type):
                raise InputError("precision", f'"bf16" on device {p.device.type!r}', "a device with torch.autocast")
        super().__init__(copy.copy(inner))  # a separate view: the caller's stays float32
        self.inner.product = _Products()
        own = inner.recipe is not None and inner.recipe.gates > 0 and not isinstance(inner, WrappedCell)
        self.bf16 = own and rounds()
        self.recipe = inner.recipe if self.bf16 else None

    def project(self, x: Tensor) -> Tensor:
        """Project by the inner cell, `(..., P)` float32."""
        with _autocast(x):
            return self.inner.project(x).float()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Advance the inner cell; state, carry and link are float32."""
        with _autocast(p):
            new = self.inner.advance(p, state)
        return Advance(new.state.float(), new.carry.float(), None if new.link is None else new.link.float())

    def _roll_uncompiled(self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool) -> Roll:
        """Roll on a GPU or a CPU without bfloat16 products: a GRU by hand or by Triton, others by autograd."""
        if isinstance(self.inner, GRUCell):
            return GRURoll(self.inner, self, x, state, keep=keep, projected=projected, bf16=True)
        return super()._roll_uncompiled(x, state, keep=keep, projected=projected, carry=carry)


def _autocast(x: Tensor) -> torch.autocast:
    # without autocast's cache, which would hold one rounded copy of a weight for all time steps
    # of a block, and its gradients summed in bfloat16
    return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)


class _Products:
    """The product `W x + b` of a named cell."""

    def __init__(self) -> None:
        self._rounded: dict[int, Tensor] = {}  # by the weight's id

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute x `(..., D)`, weight `(P, D)`, bias `(P,)`, all float32 -> `(..., P)` float32."""
        if id(weight) not in self._rounded:
            self._rounded[id(weight)] = weight.detach().bfloat16()
        product: Callable[..., Any] = _Product.apply
        out: Tensor = product(x, weight, self._rounded[id(weight)])
        return out if bias is None else out + bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rounded: Tensor) -> Tensor:
        low = x.bfloat16()
        ctx.save_for_backward(low, rounded)
        return (low @ rounded.t()).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        low, rounded = ctx.saved_tensors
        g = grads[0].bfloat16()
        dx = (g @ rounded).float() if ctx.needs_input_grad[0] else None
        dw = (g.flatten(0, -2).t() @ low.flatten(0, -2)).float() if ctx.needs_input_grad[1] else None
        return dx, dw, None
