"""Saving without pickle: tensors as safetensors, everything else as JSON in the same file's header.

A file is written beside its target, flushed to disk and renamed over it, so there is always one
whole file: the last good one.
"""

import json
import os
import pathlib
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from hbll_seq.errors import InputError
from hbll_seq.models.registry import CLASSES

FORMAT = "hbll_seq-1"


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model of this package, with what is needed to rebuild it.

    Raises:
        InputError: not a model of this package, or one around a module of your own; save its `state_dict` yourself.
        OSError: the file could not be written; an older file of that name is as it was.
    """
    config = getattr(model, "config", None)
    if not callable(config):
        raise InputError("model", type(model).__name__, "a model of hbll_seq.models")
    write(path, dict(model.state_dict()), {"class": type(model).__name__, "config": config()})


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Rebuild a model from `save`, on the CPU.

    Raises:
        InputError: not a file of this package, or of a class it does not know.
    """

    tensors, facts = read(path)
    name = facts.get("class")
    if name not in CLASSES:
        raise InputError("path", f"a file with class {name!r}", f"one of {sorted(CLASSES)}")
    model: nn.Module = CLASSES[name].from_config(facts["config"])  # type: ignore[attr-defined]  # every registered class has it
    dtype = next(iter(tensors.values())).dtype
    model.to(dtype).load_state_dict(tensors)
    return model


def write(path: str | os.PathLike[str], tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-able facts atomically."""
    target = pathlib.Path(path)
    data = pack(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        metadata={"format": FORMAT, "facts": json.dumps(facts)},
    )
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:  # a full disk, or Ctrl-C: nothing half-written stays
        beside.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file from `write`."""
    try:
        with safe_open(os.fspath(path), "pt") as file:
            meta = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError:
        raise InputError("path", f"{os.fspath(path)!r}, which does not exist", "a file written by hbll_seq") from None
    except SafetensorError as error:
        raise InputError("path", f"a file that is not safetensors ({error})", "a file written by hbll_seq") from error
    if meta.get("format") != FORMAT:
        raise InputError("path", f"a file of format {meta.get('format')!r}", f"{FORMAT!r}")
    return tensors, json.loads(meta["facts"])


def split_state(state: dict[str, Any], prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (named with `prefix`) and the JSON-able rest of a nested state dict."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[k, walk(v, f"{name}.{k}")] for k, v in value.items()]}
        if isinstance(value, list | tuple):
            return {"list": [walk(v, f"{name}.{i}") for i, v in enumerate(value)]}
        return {"value": value}

    return tensors, walk(state, prefix)


def join_state(tensors: dict[str, Tensor], tree: dict[str, Any]) -> Any:
    """The inverse of `split_state`."""
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "dict" in tree:
        return {k: join_state(tensors, v) for k, v in tree["dict"]}
    if "list" in tree:
        return [join_state(tensors, v) for v in tree["list"]]
    return tree["value"]
