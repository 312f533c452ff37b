"""Places of data files: a `path` argument, `$HBLL_SEQ_DATA`, the cache of downloads."""

import os
import sys
from pathlib import Path

from hbll_seq.errors import InputError


def data_folder(name: str, path: str | os.PathLike[str] | None, expected: str) -> Path:
    """Return the folder of data set `name`: `path` itself, or `$HBLL_SEQ_DATA/name`.

    Args:
        name: the data set's name, also its folder's.
        path: the folder itself, if the caller gave one.
        expected: the files that belong there, for the error.

    Raises:
        InputError: no such folder; the message names `HBLL_SEQ_DATA` and the expected files.
    """
    folder = Path(path).expanduser() if path is not None else from_environment(name)
    if folder is None:
        raise missing(name, "HBLL_SEQ_DATA not set", expected)
    if not folder.is_dir():
        raise missing(name, f"no folder {folder}", expected)
    return folder


def from_environment(*parts: str) -> Path | None:
    """Return `$HBLL_SEQ_DATA/parts...`, or None if the variable is unset; the file need not exist."""
    root = os.environ.get("HBLL_SEQ_DATA")
    return Path(root).expanduser().joinpath(*parts) if root else None


def missing(name: str, got: str, expected: str) -> InputError:
    """Return the error for absent data: the place searched, and the two ways to name the right one."""
    places = f"in $HBLL_SEQ_DATA/{name} (set HBLL_SEQ_DATA) or in the folder given as path="
    return InputError("path", got, f"{expected}, {places}")


def cache_folder() -> Path:
    """Return the folder of downloads: `$HBLL_SEQ_CACHE`, or `hbll_seq` in the platform's cache folder."""
    own = os.environ.get("HBLL_SEQ_CACHE")
    if own:
        return Path(own).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "hbll_seq"
