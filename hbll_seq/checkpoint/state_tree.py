"""Nested states as tensors and JSON, and back exactly; states that would not come back are refused.

A node of the tree is one of `{"value": v}`, `{"tensor": name}`, `{"array": name}`, `{"list": [...]}`,
`{"tuple": [...]}`, `{"dict": [[key, node], ...]}`. Keys keep their type, which JSON's own objects would lose.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (str, int, float, bool, type(None))


def split_state(state: Any, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a nested state into tensors (named with `prefix`) and a JSON-able rest.

    Raises:
        TypeError: a value that `join_state` could not give back; names its place.
    """
    tensors: dict[str, Tensor] = {}

    def keep(kind: str, value: Tensor, name: str) -> dict[str, Any]:
        while name in tensors:  # {"a": {"b": t}, "a.b": u}
            name += "'"
        tensors[name] = value
        return {kind: name}

    def walk(value: Any, name: str) -> dict[str, Any]:
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_quantized or value.is_meta:
                raise _lost(name, f"a tensor that is {value.layout}, quantised or without values")
            return keep("tensor", value, name)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise _lost(name, f"an array of {value.dtype}")
            return keep("array", torch.from_numpy(value.copy()), name)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, _PLAIN):
                    raise _lost(name, f"a key that is a {type(key).__name__}")
            return {"dict": [[k, walk(v, f"{name}.{k}")] for k, v in value.items()]}
        if type(value) in (list, tuple):
            return {type(value).__name__: [walk(v, f"{name}.{i}") for i, v in enumerate(value)]}
        if not isinstance(value, _PLAIN):
            raise _lost(name, f"a {type(value).__name__}")
        return {"value": value}

    try:
        return tensors, walk(state, prefix)
    except RecursionError:
        raise _lost(prefix, "nested without end") from None


def _lost(name: str, what: str) -> TypeError:
    return TypeError(f"{name} is {what}, which a file could not give back")


def join_state(tensors: dict[str, Tensor], tree: Any) -> Any:
    """Invert `split_state`.

    Raises:
        ValueError: not a tree from `split_state`, or one with missing tensors.
    """
    if not isinstance(tree, dict) or len(tree) != 1:
        raise ValueError("a node of the state that is no object of one entry")
    ((kind, value),) = tree.items()
    if kind == "value" and isinstance(value, _PLAIN):
        return value
    if kind in ("tensor", "array") and isinstance(value, str) and value in tensors:
        return tensors[value] if kind == "tensor" else tensors[value].numpy()
    if kind in ("list", "tuple") and isinstance(value, list):
        parts = [join_state(tensors, v) for v in value]
        return parts if kind == "list" else tuple(parts)
    if kind == "dict" and isinstance(value, list):
        if not all(isinstance(v, list) and len(v) == 2 and isinstance(v[0], _PLAIN) for v in value):
            raise ValueError("entries of a dictionary that are no pairs of a key and a node")
        return {k: join_state(tensors, v) for k, v in value}
    raise ValueError(f"a node of the state of kind {kind!r} that cannot be read")
