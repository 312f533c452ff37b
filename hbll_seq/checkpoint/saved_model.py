"""`save` and `load`: a model's weights, with everything needed to rebuild it.

A module that this package cannot rebuild (one of your own) is saved as its `state_dict` alone, and loaded into another
of its kind.
"""

import os
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from hbll_seq.audio.front import MFCC, Frames, LogMel
from hbll_seq.checkpoint.container import read, refused, write
from hbll_seq.errors import InputError, warn
from hbll_seq.models.base import Model
from hbll_seq.models.label_names import check_names, classes_of, names_of
from hbll_seq.models.registry import CLASSES
from hbll_seq.text import OutsideTokenizer, Tokenizer, from_config

_LARGEST_FRONT = 1 << 24  # numbers of windows and filters, which the configuration alone determines
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with a checksum of the file.

    A model of this package comes with its configuration. Of a module of your own, or a model around one or with a front
    end of your own, the file has the `state_dict` alone: `load(path, into=...)` puts it into a module that you built.

    A language model's tokenizer is in the file; one of another package only by name, which a warning says: then give
    it to `load`.

    Raises:
        InputError: no module; a model of this package whose weights are of several types; a `state_dict` with more
            than tensors.
        OSError: the file could not be written; an older file of that name is unchanged.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "a module")
    model = model.inner if isinstance(model, Model) else model  # of an `AnyModule` what is in it
    tensors = dict(model.state_dict())
    if not _rebuilds(model):
        odd = [k for k, v in tensors.items() if not isinstance(v, Tensor)]
        if odd:
            raise InputError("model", f"a state_dict with {odd[0]!r} of {type(tensors[odd[0]]).__name__}", "tensors")
        write(path, tensors, {"module": type(model).__name__} | _names(model))
        return
    facts: dict[str, Any] = {"class": type(model).__name__, "config": model.config()} | _names(model)
    if getattr(model, "trained_for", None) is not None:
        facts["trained_for"] = model.trained_for
    tokenizer = getattr(model, "tokenizer", None)
    dtypes = sorted({str(v.dtype) for v in tensors.values()})
    if len(dtypes) != 1 or not {v.dtype for v in tensors.values()} <= set(_FLOATS):
        raise InputError("model", f"tensors of {', '.join(dtypes)}", "one float type for all: model.to(dtype)")
    write(path, tensors, facts)
    if isinstance(tokenizer, Tokenizer) and not tokenizer.portable:
        name = tokenizer.config().get("name")
        warn(f"the file holds no {name}, the tokenizer of another package: hs.load(path, tokenizer=...)", UserWarning)


def _rebuilds(model: nn.Module) -> TypeGuard[Model]:
    """Whether a file can say how to build the model: a class of this package, all of whose parts are named."""
    if CLASSES.get(type(model).__name__) is not type(model):
        return False
    front = getattr(model, "front", None)
    named = front is None or type(front) in (Frames, LogMel, MFCC)  # not one of the user's
    return named and (not hasattr(model, "_config") or model._config is not None)


def load(path: str | os.PathLike[str], *, into: nn.Module | None = None, tokenizer: Any = None) -> nn.Module:
    """Rebuild a model from a file of `save`, on the CPU, or load its weights into a module.

    The sizes in the file's configuration are compared with its tensors before memory of these sizes is allocated.

    Args:
        path: the file.
        into: a module with the file's parameters and buffers, names and shapes alike; it is changed and returned. It
            keeps its devices and types. None: a model of this package is built from the file.
        tokenizer: the object of another package with which a language model was made; else None.

    Raises:
        InputError: not a file from `save`, a model of an unknown class, a damaged file, or one of another module; a
            tokenizer that is needed and not given, or that does not fit.
    """
    tensors, facts = read(path)
    if ("class" not in facts and "module" not in facts) and "tree" in facts:
        raise refused(
            path, "which is a training checkpoint", "path",
            "a file from hs.save; build the model again and call fit(model, ..., checkpoint=..., resume=True) to have "
            "the checkpoint's weights in it, then hs.save(model, another file)",
        )  # fmt: skip
    if into is not None:
        if tokenizer is not None:
            raise InputError("tokenizer", f"{type(tokenizer).__name__} beside into=", "None: the module has its own")
        return _load_into(path, into, tensors, facts)
    if "module" in facts:
        raise InputError(
            "into", f"None, and {os.fspath(path)!r} has the weights of a {facts['module']}",
            "such a module, built as it was: load(path, into=module)",
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
    _name(path, model, facts)
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


def _load_into(
    path: str | os.PathLike[str], into: nn.Module, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> nn.Module:
    """Load the file's tensors into a module, all or none."""
    if not isinstance(into, nn.Module):
        raise InputError("into", type(into).__name__, "a module, or None")
    given, into = into, into.inner if isinstance(into, Model) else into
    wanted = {k: tuple(v.shape) for k, v in into.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    for k in sorted(wanted.keys() | found.keys()):
        if wanted.get(k) != found.get(k):
            have, want = (f"shape {one[k]}" if k in one else "absent" for one in (found, wanted))
            raise refused(path, f"whose tensor {k!r} is {have}", "path", f"{want}, as in the module")
    into.load_state_dict(tensors)
    if "trained_for" in facts and hasattr(into, "trained_for"):
        into.trained_for = facts["trained_for"]
    _name(path, into, facts)
    return given


def _names(model: nn.Module) -> dict[str, Any]:
    """Return the names of a model's labels for a file."""
    names = names_of(model)
    return {} if names is None else {"label_names": names}


def _name(path: str | os.PathLike[str], model: Any, facts: dict[str, Any]) -> None:
    """Give a model the names of its labels that a file has."""
    if "label_names" in facts:
        try:
            model.label_names = check_names(facts["label_names"], "names", classes_of(model))
        except InputError as error:
            raise refused(path, f"whose label names are {error.got}", "path", error.expected) from error


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
