"""Like modules run as one batched call.

The nodes of one height of the layered tree are different modules on different inputs. Where they are alike their
parameters are stacked and `torch.vmap` makes one batched call of them, with gradients to every module's own parameters;
otherwise they run one after the other. `alike` says when one batched call provably does what the calls one by one do.
"""

import copy
import enum
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, enum.Enum, torch.dtype, torch.device, torch.Size)
# what every module has for itself; hooks are among it, and none may hang on a module of a batched call
_OWN = vars(nn.Module())
_STORES = ("_parameters", "_buffers", "_modules")


class Bank:
    """Modules 1..N-1 of a layered network, called by number.

    Args:
        modules: one a node; node n is `modules[n - 1]`.
        batched: False runs them one by one even where they are alike (the reference).
    """

    def __init__(self, modules: Sequence[nn.Module], batched: bool = True) -> None:
        self._modules, self._batched = list(modules), batched
        self._shell: nn.Module | None = None

    @property
    def alike(self) -> bool:
        """Whether all of them run as one batched call, as they are now."""
        return self._batched and self._shell_of(self._modules) is not None

    def __call__(self, nodes: Sequence[int], x: Tensor) -> Tensor:
        """Module `nodes[i]` on `x[i]`: `(m, B, ...) -> (m, B, ...)`."""
        chosen = [self._modules[n - 1] for n in nodes]
        shell = self._shell_of(chosen) if self._batched and len(chosen) > 1 else None
        if shell is None:
            return torch.stack([module(one) for module, one in zip(chosen, x, strict=True)])
        names = _names(chosen[0])
        parameters = [dict(module.named_parameters()) for module in chosen]
        stacked = {name: torch.stack([p[name] for p in parameters]) for name in names}
        result = vmap(lambda weights, one: functional_call(shell, weights, (one,)), randomness="different")(stacked, x)
        assert isinstance(result, Tensor)
        return result

    def _shell_of(self, chosen: list[nn.Module]) -> nn.Module | None:
        """A module without weights that stands for all of `chosen`, or None where they are not alike.

        Looked at in every call: attributes and hooks of a user's modules may change at any time.
        """
        names = _names(chosen[0])  # parameters that two parts share have one name
        if not all(alike(chosen[0], other) and _names(other) == names for other in chosen[1:]):
            return None
        if self._shell is None or not alike(chosen[0], self._shell):
            if not alike(chosen[0], chosen[0]):  # one alone, with hooks or buffers
                return None
            self._shell = copy.deepcopy(chosen[0]).to("meta")
        return self._shell


def _names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules compute the same function of their parameters and their input.

    They have the same class, equal attributes, and parameters of equal names, shapes and dtypes; so have all their
    parts. Neither has buffers, hooks, or an attribute that cannot be compared: a tensor, an object, a closure.
    """
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    for name, a in vars(one).items():
        b = vars(other)[name]
        if name in _STORES:
            continue
        if name in _OWN:
            # empty stores of hooks, and flags such as `training`
            if (a or b) if isinstance(a, dict) else a != b:
                return False
        elif not _equal(a, b):
            return False
    if one._buffers or other._buffers:
        return False
    return _parameters_alike(one._parameters, other._parameters) and _parts_alike(one._modules, other._modules)


def _parts_alike(ours: dict[str, nn.Module | None], theirs: dict[str, nn.Module | None]) -> bool:
    if ours.keys() != theirs.keys():
        return False
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        if (a is None) != (b is None) or (a is not None and b is not None and not alike(a, b)):
            return False
    return True


def _parameters_alike(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    if ours.keys() != theirs.keys():
        return False
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        if (a is None) != (b is None) or type(a) is not type(b):
            return False
        if a is not None and (a.shape, a.dtype, a.requires_grad) != (b.shape, b.dtype, b.requires_grad):
            return False
    return True


def _equal(a: Any, b: Any) -> bool:
    """Whether two attributes are equal and of a kind whose equality says everything."""
    if type(a) is not type(b):
        return False
    if isinstance(a, _PLAIN):
        return bool(a == b)
    if isinstance(a, types.FunctionType):
        return a is b and a.__closure__ is None
    if isinstance(a, types.BuiltinFunctionType):
        return a is b
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(p, q) for p, q in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(p, b[k]) for k, p in a.items())
    if isinstance(a, set | frozenset):
        return all(isinstance(p, _PLAIN) for p in a | b) and bool(a == b)
    return False
