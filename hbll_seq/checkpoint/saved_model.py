"""`save` and `load`: a model's weights, with everything needed to rebuild it."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.checkpoint.container import read, refused, write
from hbll_seq.errors import InputError, warn
from hbll_seq.models.registry import CLASSES
from hbll_seq.text import OutsideTokenizer, Tokenizer, from_config

_LARGEST_FRONT = 1 << 24  # numbers of windows and filters, which the configuration alone determines
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model of this package, with its configuration and a checksum of the file.

    A language model's tokenizer is in the file; one of another package only by name, which a warning says: then give
    it to `load`.

    Raises:
        InputError: not a model of this package, one around a module of your own (save its `state_dict` yourself), or
            one whose weights are of several types.
        OSError: the file could not be written; an older file of that name is unchanged.
    """
    config = getattr(model, "config", None)
    if not callable(config):
        raise InputError("model", type(model).__name__, "a model of hbll_seq.models")
    facts = {"class": type(model).__name__, "config": config()}
    if getattr(model, "trained_for", None) is not None:
        facts["trained_for"] = model.trained_for
    tokenizer = getattr(model, "tokenizer", None)
    tensors = dict(model.state_dict())
    dtypes = sorted({str(v.dtype) for v in tensors.values()})
    if len(dtypes) != 1 or not {v.dtype for v in tensors.values()} <= set(_FLOATS):
        raise InputError("model", f"tensors of {', '.join(dtypes)}", "one float type for all: model.to(dtype)")
    write(path, tensors, facts)
    if isinstance(tokenizer, Tokenizer) and not tokenizer.portable:
        name = tokenizer.config().get("name")
        warn(f"the file holds no {name}, the tokenizer of another package: hs.load(path, tokenizer=...)", UserWarning)


def load(path: str | os.PathLike[str], *, tokenizer: Any = None) -> nn.Module:
    """Rebuild a model from a file of `save`, on the CPU.

    The sizes in the file's configuration are compared with its tensors before memory of these sizes is allocated.

    Args:
        path: the file.
        tokenizer: the object of another package with which a language model was made; else None.

    Raises:
        InputError: not a file from `save`, a model of an unknown class, or a damaged file; a tokenizer that is needed
            and not given, or that does not fit.
    """
    tensors, facts = read(path)
    if "class" not in facts and "tree" in facts:
        raise refused(
            path, "which is a training checkpoint", "path",
            "a file from hs.save; build the model again and call fit(model, ..., checkpoint=..., resume=True) to have "
            "the checkpoint's weights in it, then hs.save(model, another file)",
        )  # fmt: skip
    name, config = facts.get("class"), facts.get("config")
    if not isinstance(name, str) or name not in CLASSES:
        raise refused(path, f"of class {name!r}", "path", f"one of {sorted(CLASSES)}")
    if not isinstance(config, dict):
        raise refused(path, "whose configuration is no object")
    layers = config.get("layers", 1)
    if not isinstance(layers, int) or layers > len(tensors):  # layers are built one by one, also on the meta device
        raise refused(path, f"of {layers!r} layers and {len(tensors)} tensors")
    given = _given(tokenizer, config)
    with torch.device("meta"):  # shapes without memory
        outline = _build(path, name, config, given)
    dtype = _compare(path, outline, tensors)
    beside = sum(v.numel() for v in vars(getattr(outline, "front", None) or object).values() if isinstance(v, Tensor))
    if beside > _LARGEST_FRONT:
        raise refused(path, f"whose configuration asks for a front end of {beside:,} numbers")
    with torch.device("cpu"):
        model = _build(path, name, config, given).to(dtype)
    model.load_state_dict(tensors)
    if "trained_for" in facts:
        if not hasattr(model, "trained_for") or facts["trained_for"] not in ("full", "any"):
            raise refused(path, f"whose model was trained for {facts['trained_for']!r}")
        model.trained_for = facts["trained_for"]
    return model


def _given(tokenizer: Any, config: dict[str, Any]) -> dict[str, Tokenizer]:
    """Return the tokenizer that a configuration only names, as an argument of `from_config`."""
    saved = config.get("tokenizer")
    if isinstance(saved, dict) and saved.get("kind") == OutsideTokenizer.kind:
        return {"tokenizer": from_config(saved, tokenizer)}
    if tokenizer is not None:
        came = f"{type(tokenizer).__name__}, for a file that needs none"
        raise InputError("tokenizer", came, "None: the model has its own, or reads no text")
    return {}


def _build(
    path: str | os.PathLike[str], name: str, config: dict[str, Any], given: dict[str, Tokenizer]
) -> nn.Module:  # fmt: skip
    try:
        model: nn.Module = CLASSES[name].from_config(config, **given)  # type: ignore[attr-defined]  # every registered class has it
    except Exception as error:  # a constructor may fail in any way
        raise refused(path, f"whose configuration no {name} has ({type(error).__name__}: {error})") from error
    return model


def _compare(path: str | os.PathLike[str], outline: nn.Module, tensors: dict[str, Tensor]) -> torch.dtype:
    """Check that the file's tensors are exactly the model's; return their dtype."""
    wanted = {k: tuple(v.shape) for k, v in outline.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    for k in sorted(wanted.keys() | found.keys()):
        if wanted.get(k) != found.get(k):
            have, want = (f"shape {one[k]}" if k in one else "absent" for one in (found, wanted))
            raise refused(path, f"whose tensor {k!r} is {have}; its configuration says {want}")
    dtypes = {v.dtype for v in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= set(_FLOATS):
        raise refused(path, f"whose tensors are {', '.join(sorted(map(str, dtypes))) or 'none'}, not of one float type")
    return dtypes.pop()
