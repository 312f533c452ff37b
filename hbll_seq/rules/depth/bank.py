"""Several modules of one kind, run as one batched call.

The nodes of one height of the tree are different modules on different inputs. Where they are alike, their parameters
are stacked and `torch.vmap` makes one batched call of them, with gradients to every module's own parameters. Otherwise
they run one after the other. `alike` tells whether one batched call provably equals the calls one by one.
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

    Attributes:
        alike: True if several modules run as one batched call.
    """

    def __init__(self, modules: Sequence[nn.Module], batched: bool = True) -> None:
        self._modules, self._batched = list(modules), batched
        self._names: list[str] = []
        self._shell: nn.Module | None = None  # without weights; stands for any of the modules
        self.alike = False
        self.look()

    def look(self) -> None:
        """Compare the modules as they are now. Call it before every update: a user may hook or change them any time."""
        first = self._modules[0]
        self.alike = self._batched and all(alike(first, m) for m in self._modules)
        if not self.alike:
            return
        names = [[name for name, _ in m.named_parameters()] for m in self._modules]
        self._names = names[0]
        self.alike = all(one == names[0] for one in names)  # parameters that two parts share have one name
        if self.alike and (self._shell is None or not alike(first, self._shell)):
            self._shell = copy.deepcopy(first).to("meta")

    def __call__(self, nodes: Sequence[int], x: Tensor) -> Tensor:
        """Run module `nodes[i]` on `x[i]`: `(m, B, ...) -> (m, B, ...)`."""
        chosen = [self._modules[n - 1] for n in nodes]
        if self.alike and self._shell is not None and len(chosen) > 1:
            try:
                result = self._at_once(self._shell, chosen, x)
            except RuntimeError:  # code that `vmap` cannot batch; an error of the modules' own comes again below
                result = None
            if result is not None and alike(chosen[0], self._shell):
                return result
            # a forward that changes its module's attributes has changed the shell's instead
            self._batched = self.alike = False
        out = torch.stack([module(one) for module, one in zip(chosen, x, strict=True)])
        if self.alike and self._shell is not None and not alike(chosen[0], self._shell):
            self._batched = self.alike = False  # as above, seen on one module called alone
        return out

    def _at_once(self, shell: nn.Module, chosen: list[nn.Module], x: Tensor) -> Tensor:
        parameters = [dict(module.named_parameters()) for module in chosen]
        stacked = {name: torch.stack([p[name] for p in parameters]) for name in self._names}
        result = vmap(lambda weights, one: functional_call(shell, weights, (one,)), randomness="different")(stacked, x)
        assert isinstance(result, Tensor)
        return result


def alike(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two modules compute the same function of their parameters and their input.

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
    """Tell whether two attributes are equal, and of a kind that has no state beside its value."""
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
