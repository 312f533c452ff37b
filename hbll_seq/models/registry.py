"""Names under which saved models find their class again."""

from typing import TypeVar

from torch import nn

CLASSES: dict[str, type[nn.Module]] = {}
M = TypeVar("M", bound=type[nn.Module])


def remember(cls: M) -> M:
    """Class decorator: `save`/`load` know the class by its name."""
    CLASSES[cls.__name__] = cls
    return cls
