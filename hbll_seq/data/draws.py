"""Random draws without a trace in torch's global random state, also where several threads draw at once.

What a constructor draws comes from a generator of its own (`SeededDraws`). Some draws can only come from the global
generator: dropout has no argument for another, and a `DataLoader` takes its seed there. They borrow it
(`borrowed_generators`): one thread at a time, and it is put back as it was.
"""

import numbers
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hbll_seq.errors import InputError

# functions that draw and may be called without naming a generator; `nn.init` names one, which is None
_DRAWING: set[Callable[..., Any]] = {
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial,
    Tensor.uniform_, Tensor.normal_, Tensor.random_, Tensor.bernoulli_, Tensor.exponential_,
}  # fmt: skip

_lock = threading.RLock()


def _new_lock() -> None:
    """A forked child has one thread: whoever held the lock does not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class SeededDraws(TorchFunctionMode):
    """A context in which this thread's torch functions draw from generators of its own, seeded by `seed`.

    The numbers are those that `torch.manual_seed(seed)` would have led to. Other threads are not touched: torch keeps
    such contexts by thread. Calls that name a generator keep theirs.

    Raises:
        InputError: a seed that is no integer of 64 bits.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        if not isinstance(seed, numbers.Integral) or not -(2**63) <= int(seed) < 2**64:
            raise InputError("seed", repr(seed), "an integer of 64 bits")
        self._seed: int = int(seed)
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Add the generator where one can be named and none is."""
        kwargs = dict(kwargs or {})
        asked = func in _DRAWING or "generator" in kwargs
        if asked and kwargs.get("generator") is None and not any(isinstance(a, torch.Generator) for a in args):
            device = self._device(args, kwargs)
            if device.type != "meta":  # nothing is drawn there
                kwargs["generator"] = self._generator(device)
        return func(*args, **kwargs)

    def _device(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
        """Where the numbers will be: a tensor's device, the one that is named, or torch's default."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                return value.device
        return torch.device(kwargs["device"]) if kwargs.get("device") is not None else torch.get_default_device()

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


@contextmanager
def borrowed_generators(device: torch.device | None = None, seed: int | None = None) -> Iterator[None]:
    """Use torch's global generators of the CPU and of `device`: no other borrower meanwhile, put back at the end.

    Args:
        device: of what draws, beside the CPU.
        seed: start them from it; None leaves them where they are.
    """
    cuda = device is not None and device.type == "cuda"
    with _lock, torch.random.fork_rng(devices=[device] if cuda else []):
        if seed is not None:
            seed_generators(seed, device)
        yield


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of the CPU and of `device`; those of other devices are the user's."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
