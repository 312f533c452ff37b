"""What can be exported, and what a file of it takes and gives.

A *recurrent model* is one of this package's whose layers, and what stands between them, are known; a *layer* is one of
PyTorch's recurrent layers, or of `hbll_seq.nn`.
"""

from typing import Literal, TypeGuard

import torch
from torch import nn

from hbll_seq import nn as layers
from hbll_seq.cells import MinGRU
from hbll_seq.errors import InputError
from hbll_seq.models.interlayer import Interlayer
from hbll_seq.models.recurrent import SequenceModel

Part = Literal["whole", "step"]
PLAIN = ("forward", "embed", "between", "read", "cells", "advance")  # what a subclass may not change
RECURRENT = (nn.GRU, nn.LSTM, nn.RNN, layers.GRU, layers.LSTM, layers.RNN, layers.MinGRU)


def is_model(model: nn.Module) -> TypeGuard[SequenceModel]:
    """Return whether it is a recurrent model whose every part does what its class says."""
    if not isinstance(model, SequenceModel):
        return False
    if type(model.readout) is not nn.Linear or type(model.interlayer) not in (type(None), Interlayer):
        return False
    if model.embedding is not None and (type(model.embedding) is not nn.Embedding or model.embedding.max_norm):
        return False
    return all(getattr(type(model), name) is getattr(SequenceModel, name) and name not in vars(model) for name in PLAIN)


def is_layer(model: nn.Module) -> TypeGuard[nn.RNNBase | MinGRU]:
    """Return whether it is a recurrent layer of an exact known class."""
    return type(model) in RECURRENT


def check_whole(model: nn.Module) -> None:
    """Refuse what a file would silently leave out.

    Raises:
        InputError: hooks on a module, weights without values or on several devices, or of a type other than float32.
    """
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise InputError("model", f"a hook on {name or 'the model'}", "no hooks: a file would not have them")
    devices = sorted({str(one.device) for one in (*model.parameters(), *model.buffers())})
    if len(devices) > 1 or devices == ["meta"]:
        raise InputError("model", f"weights on {', '.join(devices)}", "one device that holds values: model.to(device)")
    types = {p.dtype for p in model.parameters()}
    if types != {torch.float32}:
        raise InputError(
            "model", f"weights of {', '.join(sorted(map(str, types))) or 'no type'}", "float32: model.float()"
        )


def check_part(model: nn.Module, part: str) -> Part:
    """Return the part of a model to export.

    Raises:
        InputError: another word, or a step of something that does not run step by step.
    """
    if part not in ("whole", "step"):
        raise InputError("part", repr(part), "'whole' or 'step'")
    if part == "step":
        if not is_model(model):
            raise InputError("part", f"'step' of a {type(model).__name__}", "a recurrent model of hbll_seq.models")
        model.check_causal("part")
        return "step"
    return "whole"


def needs_lengths(model: SequenceModel) -> bool:
    """Return whether padding changes results at valid time steps, so that a file takes `lengths`."""
    return model.task == "sequence" or model.bidirectional
