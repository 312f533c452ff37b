"""Whether a recurrent model does nothing beyond its class, so that a shorter way round its modules is equal."""

from torch import nn
from torch.nn.utils import parametrize

from hbll_seq.models.recurrent import SequenceModel

METHODS = ("forward", "embed", "read", "cells")  # that training goes through


def plain(model: SequenceModel) -> bool:
    """Return whether training may take a shorter way.

    The model has known types without overrides, options, hooks or parametrizations; every parameter is a leaf that
    requires grad.
    """
    return untouched(model, METHODS) and all(
        p.is_leaf and p.requires_grad and not _hooked(p) for p in model.parameters()
    )


def untouched(model: SequenceModel, methods: tuple[str, ...]) -> bool:
    """Return whether `methods` and modules of a model are those of this package: no overrides, options or hooks."""
    for name in methods:
        if getattr(type(model), name) is not getattr(SequenceModel, name) or name in vars(model):
            return False
    if model.embedding is not None and not _plain_embedding(model.embedding):
        return False
    return type(model.readout) is nn.Linear and not any(_touched(module) for module in model.modules())


def _plain_embedding(table: nn.Embedding) -> bool:
    options = (table.padding_idx, table.max_norm, table.scale_grad_by_freq or None, table.sparse or None)
    return type(table) is nn.Embedding and all(option is None for option in options)


def _hooked(p: nn.Parameter) -> bool:
    """Return whether a hook sees the gradient before `.grad`."""
    return bool(getattr(p, "_backward_hooks", None) or getattr(p, "_post_accumulate_grad_hooks", None))


def _touched(module: nn.Module) -> bool:
    """Return whether a module has hooks or parametrizations, or a replaced forward."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for name in hooks) or "forward" in vars(module):
        return True
    return parametrize.is_parametrized(module)
