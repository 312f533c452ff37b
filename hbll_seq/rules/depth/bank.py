"""Several modules of one kind, run as one batched call.

The nodes of one height of the tree are different modules on different inputs. Where they are alike (same class, same
parameter shapes, no buffers), their parameters are stacked and `torch.vmap` makes one batched call of them, with
gradients to every module's own parameters. Otherwise they run one after the other.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


def _signature(module: nn.Module) -> list[object]:
    parts: list[object] = [repr(module)]  # classes, sizes and options of every part
    return parts + [(name, p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters()]


class Bank:
    """Modules 1..N-1 of a layered network, called by number.

    Args:
        modules: one a node; node n is `modules[n - 1]`.
        batched: False runs them one by one even where they are alike (the reference).

    Attributes:
        alike: True if several modules run as one batched call.
    """

    def __init__(self, modules: Sequence[nn.Module], batched: bool = True) -> None:
        self._modules = list(modules)
        first = _signature(modules[0])
        self.alike = (
            batched
            and all(_signature(m) == first for m in modules[1:])
            and not any(True for m in modules for _ in m.buffers())
        )
        self._shell = copy.deepcopy(modules[0]).to("meta") if self.alike else modules[0]

    def __call__(self, nodes: Sequence[int], x: Tensor) -> Tensor:
        """Run module `nodes[i]` on `x[i]`: `(m, B, ...) -> (m, B, ...)`."""
        chosen = [self._modules[n - 1] for n in nodes]
        if not self.alike or len(chosen) == 1:
            return torch.stack([module(one) for module, one in zip(chosen, x, strict=True)])
        self._shell.train(chosen[0].training)
        names = [name for name, _ in chosen[0].named_parameters()]
        parameters = [dict(module.named_parameters()) for module in chosen]
        stacked = {name: torch.stack([p[name] for p in parameters]) for name in names}
        result = vmap(lambda weights, one: functional_call(self._shell, weights, (one,)), randomness="different")(
            stacked, x
        )
        assert isinstance(result, Tensor)
        return result
