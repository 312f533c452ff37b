"""Atomic replacement: a whole new file in the place of the old one, or the old one unchanged."""

import os
import pathlib
import re
import secrets
from collections.abc import Iterable
from typing import IO

from hbll_seq.checkpoint.lock import try_lock


def replace_file(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Write beside the target, flush to disk, rename over it.

    Every writer has its own file beside the target, and removes the files of killed writers.

    Raises:
        OSError: the file could not be written; the target is as it was.
    """
    target = pathlib.Path(path)
    remove_stale(target)
    file, beside = _open_beside(target)
    try:
        with file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":  # renamed while locked, so that nobody takes it for a stale one
                os.replace(beside, target)
        if os.name == "nt":  # Windows cannot rename an open file
            os.replace(beside, target)
    except BaseException:  # a full disk, or Ctrl-C: nothing half-written stays
        beside.unlink(missing_ok=True)
        raise


def _open_beside(target: pathlib.Path) -> tuple[IO[bytes], pathlib.Path]:
    """Open a new file with a unique name, locked where files can be."""
    while True:
        beside = target.with_name(f".{target.name}.{os.getpid():x}-{secrets.token_hex(8)}.part")
        file = open(beside, "xb")
        # before the lock another writer may take it for a stale one, and lock or remove it
        if try_lock(file) is not False and (os.name == "nt" or os.fstat(file.fileno()).st_nlink):
            return file, beside
        file.close()
        beside.unlink(missing_ok=True)


def remove_stale(target: pathlib.Path) -> None:
    """Remove the files that killed writers of `target` left beside it: those that nobody has locked."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f-]+\.part")
    with os.scandir(target.parent) as entries:
        found = [pathlib.Path(e.path) for e in entries if name.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
    for one in found:
        try:
            with open(one, "r+b") as file:
                stale = try_lock(file)
                if stale and os.name != "nt":
                    one.unlink()
            if stale and os.name == "nt":
                one.unlink()
        except OSError:  # another user's file, or gone by now
            continue
