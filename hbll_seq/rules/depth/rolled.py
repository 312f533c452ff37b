"""The modules of a layered network after one visit of each: a graph per module, and none that joins two."""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.models.layered import Layered
from hbll_seq.rules.depth.bank import Bank


class Rolled(NamedTuple):
    """M = N - 1 modules, each with the graph from its own input to its own output.

    Attributes:
        inputs: leaves: one a module `(B, ...)`; or one `(M, B, ...)` for all, after a batched call.
        outputs: likewise.
        together: whether a batched call made them.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    together: bool

    @property
    def states(self) -> list[Tensor]:
        """The output of every module `(B, ...)`, constants."""
        return list(self.outputs[0].detach()) if self.together else [one.detach() for one in self.outputs]

    def pull(self, messages: Tensor) -> Tensor:
        """Pull messages `(M, B, ...)` on the outputs back to the inputs: one vector-Jacobian product of all modules.

        The graphs are kept.
        """
        outputs, given = self._reached(messages)
        found = torch.autograd.grad(outputs, self.inputs, given, retain_graph=True, allow_unused=True)
        found = tuple(torch.zeros_like(x) if q is None else q for q, x in zip(found, self.inputs, strict=True))
        return found[0] if self.together else torch.stack(found)

    def learn(self, messages: Tensor) -> Tensor:
        """As `pull`, and add the gradients of all parameters to their `.grad`; the graphs are freed."""
        outputs, given = self._reached(messages)
        torch.autograd.backward(outputs, given)
        found = [torch.zeros_like(x) if x.grad is None else x.grad for x in self.inputs]
        return found[0] if self.together else torch.stack(found)

    def learn_one(self, index: int, message: Tensor) -> Tensor:
        """As `learn`, for one module of modules that were not called together; `message` is `(B, ...)`."""
        x, out = self.inputs[index], self.outputs[index]
        if out.requires_grad:
            out.backward(message)
        return torch.zeros_like(x) if x.grad is None else x.grad

    def _reached(self, messages: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs with a graph and their messages; a module may have none."""
        if self.together:
            return self.outputs, [messages]
        pairs = [(out, one) for out, one in zip(self.outputs, messages, strict=True) if out.requires_grad]
        return [out for out, _ in pairs], [one for _, one in pairs]


def in_order(model: Layered, start: Tensor) -> Rolled:
    """Visit the modules one after the other from `start`, a constant.

    Raises:
        InputError: a module that changes the shape of its input.
    """
    inputs, outputs, z = [], [], start
    for n, module in enumerate(model.layers, 1):
        x = z.detach().requires_grad_()
        out = module(x)
        if out.shape != x.shape:
            raise InputError("layers", f"node {n} that maps {tuple(x.shape)} to {tuple(out.shape)}", "equal shapes")
        inputs.append(x)
        outputs.append(out)
        z = out
    return Rolled(inputs, outputs, False)


def at_once(bank: Bank, inputs: Tensor) -> Rolled:
    """Visit all modules on inputs `(M, B, ...)`, constants, in one batched call."""
    x = inputs.detach().requires_grad_()
    return Rolled([x], [bank(range(1, len(x) + 1), x)], True)
