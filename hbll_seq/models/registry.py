"""A registry by which saved models find their class again."""

from typing import TypeVar

from torch import nn

CLASSES: dict[str, type[nn.Module]] = {}
M = TypeVar("M", bound=type[nn.Module])


def remember(cls: M) -> M:
    """Register the decorated class under its name for `save` and `load`."""
    CLASSES[cls.__name__] = cls
    return cls
