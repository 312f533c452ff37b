"""Random draws that leave torch's global random state as it was, also while several threads draw.

Constructors draw from a generator of their own (`SeededDraws`). Some draws can only use the global generator: dropout
takes no other, and a `DataLoader` takes its seed there. Such draws borrow it (`borrowed_generators`): one thread at a
time, and its state is put back afterwards.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hbll_seq.data.scalars import as_integer
from hbll_seq.errors import InputError

# functions that draw and have an optional generator; `nn.init` always passes one, which may be None
_DRAWING: set[Callable[..., Any]] = {
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial,
    Tensor.uniform_, Tensor.normal_, Tensor.random_, Tensor.bernoulli_, Tensor.exponential_,
}  # fmt: skip

_lock = threading.RLock()


def _new_lock() -> None:
    """Make a new lock in a forked child: the thread that held the old one does not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class SeededDraws(TorchFunctionMode):
    """A context whose torch functions draw from this context's own generators, seeded by `seed`.

    The numbers equal those after `torch.manual_seed(seed)`. Other threads are unaffected, because torch keeps such
    contexts by thread. Calls that name a generator keep theirs.

    Raises:
        InputError: a seed that is not an integer of 64 bits.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        found = as_integer(seed)
        if found is None or not -(2**63) <= found < 2**64:
            raise InputError("seed", repr(seed), "an integer of 64 bits")
        self._seed: int = found
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Add the generator to calls that accept one and name none."""
        kwargs = dict(kwargs or {})
        asked = func in _DRAWING or "generator" in kwargs
        if asked and kwargs.get("generator") is None and not any(isinstance(a, torch.Generator) for a in args):
            device = self._device(args, kwargs)
            if device.type != "meta":  # nothing is drawn there
                kwargs["generator"] = self._generator(device)
        return func(*args, **kwargs)

    def _device(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
        """Return the device of the numbers: a tensor's device, the named one, or torch's default."""
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
    """Use torch's global generators of the CPU and of `device` alone, and put them back at the end.

    Args:
        device: a CUDA device that draws, beside the CPU.
        seed: seed of both generators; None leaves them as they are.
    """
    cuda = device is not None and device.type == "cuda"
    with _lock, torch.random.fork_rng(devices=[device] if cuda else []):
        if seed is not None:
            seed_generators(seed, device)
        yield


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators of the CPU and of `device`; those of other devices stay as they are."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)


def generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of the global generators of the CPU and of `device`, for `repeated_draws`."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


@contextmanager
def repeated_draws(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw again from the global generators what followed `states`; they are put back at the end."""
    with borrowed_generators(device):
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield
