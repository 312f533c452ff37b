"""Training and evaluation mode for a while: every part of a model has its own mode back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """In it a model trains. One that is in training mode already keeps the parts that its owner set to evaluation."""
    with _modes_kept(model):
        if not model.training:
            model.train()
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """In it a model and all its parts are in evaluation mode."""
    with _modes_kept(model):
        model.eval()
        yield


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:  # one by one: a part may have been set by hand
            module.training = training
