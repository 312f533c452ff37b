"""Seeded random draws of modules (dropout and the like) that leave the global random state as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from hbll_seq.data.draws import borrowed_generators, seed_generators
from hbll_seq.data.sources import MIX
from hbll_seq.rules import Rule


class Draws:
    """The random draws of a run's updates: a function of (seed, update), whatever other threads draw.

    Dropout draws from torch's global generator, which all threads share. So an update that may draw borrows the
    generator. Updates of models and rules known to draw nothing leave it alone, and run in several threads at once.

    Args:
        model: the model to train.
        rule: its rule.
        seed: seed of the run.
        where: device of the model.
    """

    def __init__(self, model: nn.Module, rule: Rule[Any], seed: int, where: torch.device) -> None:
        self._needed = may_draw(model, rule)
        self._seed, self._where = seed, where

    @contextmanager
    def of(self, step: int) -> Iterator[Callable[[], None]]:
        """Enter a context for update number `step`; yield a function that restarts its draws."""
        if not self._needed:
            yield _nothing
            return
        seed = self._seed * MIX + step
        with borrowed_generators(self._where, seed):
            yield partial(seed_generators, seed, self._where)


def _nothing() -> None:
    """Restart no draws: there are none."""


def may_draw(model: nn.Module, rule: Rule[Any]) -> bool:
    """Return whether an update may draw from torch's global generator: yes, unless every module is known not to."""
    own_rule = type(rule).__module__.startswith("hbll_seq.") and not getattr(rule, "noise", 0)
    return not own_rule or any(_may_draw(module) for module in model.modules())


def _may_draw(module: nn.Module) -> bool:
    known = type(module).__module__.startswith(("torch.nn.modules.", "hbll_seq."))
    # the owner of these hooks may draw
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if not known or hooked or isinstance(module, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return True
    # dropout of every kind keeps its probability in one of these
    return bool(getattr(module, "p", 0)) or bool(getattr(module, "dropout", 0) if _rate(module) else 0)


def _rate(module: nn.Module) -> bool:
    """Return whether `dropout` is a probability, not a module with an answer of its own."""
    return not isinstance(getattr(module, "dropout", 0), nn.Module)
