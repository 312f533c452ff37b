"""Temporary training or evaluation mode; every module gets its own mode back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in training mode for a while.

    A model already in it keeps the modules that its owner set to evaluation.
    """
    with _modes_kept(model):
        if not model.training:
            model.train()
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model and all its modules in evaluation mode for a while."""
    with _modes_kept(model):
        model.eval()
        yield


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:  # one by one: a module may have been set by hand
            module.training = training
