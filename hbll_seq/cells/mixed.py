"""A cell whose products are bfloat16 and whose everything else is float32 (`precision="bf16"` of the rule `hbll`).

The products W x and W h of every step, and the two that each of them has on the way back, read both factors rounded to
bfloat16 (by 2^-8 relative at most) and give float32. Weights are float32 masters, rounded once a training step. Biases,
gates and the state that goes from step to step stay float32: in bfloat16 a gate of 0.999 is 1, and a unit that should
forget over a thousand steps never would. Gradients of the weights are summed over steps and blocks in float32.

A cell of your own runs under `torch.autocast`. That rounds the same products, and leaves their results, and what is
computed from them, in bfloat16 until they meet a float32 tensor. A gate that keeps a unit for more than some hundred
steps should be `torch.sigmoid(self.gate(xh).float())`. The state the cell returns is made float32.

On a CPU that multiplies bfloat16 (AVX512-BF16) GRU, LSTM and Elman have compiled rolls for it, whose only difference to
those of float32 is what the products read. Any other CPU gives up the compiled rolls, and emulates the products: it is
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
    """`cell` itself for "float32", a `MixedCell` for "bf16"; it is good for as long as its weights stay as they are."""
    return MixedCell(cell) if precision == "bf16" else cell


class MixedCell(WrappedCell):
    """See the module docstring.

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
        super().__init__(copy.copy(inner))  # a view of our own: the caller's goes on in float32
        self.inner.product = _Products()
        own = inner.recipe is not None and inner.recipe.gates > 0 and not isinstance(inner, WrappedCell)
        self.bf16 = own and rounds()
        self.recipe = inner.recipe if self.bf16 else None

    def project(self, x: Tensor) -> Tensor:
        """The inner cell's, `(..., P)` float32."""
        with _autocast(x):
            return self.inner.project(x).float()

    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """The inner cell's; state, carry and link float32."""
        with _autocast(p):
            new = self.inner.advance(p, state)
        return Advance(new.state.float(), new.carry.float(), None if new.link is None else new.link.float())

    def _roll_uncompiled(self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool) -> Roll:
        """Where the CPU does not multiply bfloat16, and on a GPU: a GRU by hand or by Triton, others by autograd."""
        if isinstance(self.inner, GRUCell):
            return GRURoll(self.inner, self, x, state, keep=keep, projected=projected, bf16=True)
        return super()._roll_uncompiled(x, state, keep=keep, projected=projected, carry=carry)


def _autocast(x: Tensor) -> torch.autocast:
    # without the cache, which an autocast around everything would fill: one rounded copy of a weight for all steps
    # of a block, and its gradients summed in bfloat16
    return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)


class _Products:
    """`W x + b` of a named cell."""

    def __init__(self) -> None:
        self._rounded: dict[int, Tensor] = {}  # by the weight's id

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x `(..., D)`, weight `(P, D)`, bias `(P,)`, all float32 -> `(..., P)` float32."""
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
