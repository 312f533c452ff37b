"""The file format: a safetensors file whose metadata holds JSON and the SHA-256 of the whole file.

The checksum covers every byte of the file, with zeros in its own place. So it finds any damage, and `safetensors`
itself can still open the file. Files of format "hbll_seq-1" have no checksum: they are read, and damage to their
numbers goes unnoticed. A checksum is no signature: anyone can make a file with a fitting one. So the contents are
checked all the same.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from hbll_seq.checkpoint.replace import replace_file
from hbll_seq.errors import InputError

FORMAT, WITHOUT_CHECKSUM = "hbll_seq-2", "hbll_seq-1"
_LARGEST_HEADER = 100_000_000  # safetensors' own limit
_KEY, _BLANK = b'"sha256":"', b"0" * 64


def refused(path: str | os.PathLike[str], reason: str, argument: str = "path", expected: str = "") -> InputError:
    """Return the error for an unusable file: it names the file and the reason."""
    return InputError(argument, f"{os.fspath(path)!r}, {reason}", expected or "a whole file written by hbll_seq")


def write(path: str | os.PathLike[str], tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-able facts; afterwards the path holds either the whole new file or the old one.

    Raises:
        OSError: the file could not be written.
        TypeError: facts that are not JSON, or a tensor of a kind that safetensors does not have.
    """
    text = json.dumps(facts, default=_plain)
    try:
        data = pack(
            {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
            metadata={"format": FORMAT, "sha256": _BLANK.decode(), "facts": text},
        )
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise TypeError(f"tensors that a file cannot hold ({error})") from error
    at = data.index(_KEY + _BLANK) + len(_KEY)  # quotes inside the facts are escaped, so this is the only one
    digest = hashlib.sha256(data).hexdigest().encode()
    view = memoryview(data)
    replace_file(path, (view[:at], digest, view[at + len(digest) :]))


def _plain(value: Any) -> Any:
    """Return NumPy's numbers, which options may be, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"facts with a {type(value).__name__}, which JSON does not have")


def read(path: str | os.PathLike[str], argument: str = "path") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts of a file from `write`; allocate no memory by its sizes before the header is checked.

    Args:
        path: the file.
        argument: its name in errors.

    Raises:
        InputError: no such file, another kind of file, or a damaged one.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(argument, type(path).__name__, "a path")
    file = pathlib.Path(path)
    if not file.is_file():
        what = "which is no file" if file.exists() else "which does not exist"
        raise refused(path, what, argument, "a file written by hbll_seq")
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(size - 8, _LARGEST_HEADER):
                raise refused(path, "which is not safetensors, or was cut off", argument)
            header = stream.read(length)
            meta = _metadata(path, header, argument)
            data = start + header + stream.read()
    except OSError as error:
        raise refused(path, f"which cannot be read ({error})", argument) from error
    _check(path, data, meta, len(header), argument)
    facts = _facts(path, meta, argument)
    try:
        return unpack(data), facts
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise refused(path, f"whose tensors are damaged ({error})", argument) from error


def _metadata(path: str | os.PathLike[str], header: bytes, argument: str) -> dict[str, str]:
    """Return the header's metadata, of a format this package reads."""
    try:
        whole = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise refused(path, f"which is not safetensors, or damaged ({error})", argument) from error
    meta = whole.get("__metadata__") if isinstance(whole, dict) else None
    found = meta.get("format") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or found not in (FORMAT, WITHOUT_CHECKSUM):
        raise refused(path, f"of format {found!r}", argument, f"{FORMAT!r}, or {WITHOUT_CHECKSUM!r} of older versions")
    return meta


def _check(path: str | os.PathLike[str], data: bytes, meta: dict[str, str], length: int, argument: str) -> None:
    """Compare the checksum, if the format has one."""
    stored = meta.get("sha256")
    if stored is None and meta["format"] == WITHOUT_CHECKSUM:
        return
    place = -1
    if isinstance(stored, str) and len(stored) == len(_BLANK) and stored.isascii():
        place = data.find(_KEY + stored.encode() + b'"', 8, 8 + length)
    if place < 0:
        raise refused(path, "which is damaged: it has no checksum", argument)
    at = place + len(_KEY)
    found = hashlib.sha256()
    view = memoryview(data)
    for part in (view[:at], _BLANK, view[at + len(_BLANK) :]):
        found.update(part)
    if found.hexdigest() != stored:
        raise refused(path, "which is damaged: its checksum does not match its content", argument)


def _facts(path: str | os.PathLike[str], meta: dict[str, str], argument: str) -> dict[str, Any]:
    try:
        facts = json.loads(meta["facts"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise refused(path, f"whose facts are no JSON ({type(error).__name__}: {error})", argument) from error
    if not isinstance(facts, dict):
        raise refused(path, f"whose facts are a {type(facts).__name__}, not an object", argument)
    return facts
