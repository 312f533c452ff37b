"""Put a whole file in the place of another, or leave the other as it was."""

import os
import pathlib
import re
import secrets
from collections.abc import Iterable
from typing import IO

from hbll_seq.checkpoint.lock import try_lock


def replace_file(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Write beside the target, flush to disk, rename over it.

    Every writer has a file of its own beside the target, and removes those that writers left which were killed.

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
            if os.name != "nt":  # renamed while it is locked, so that nobody takes it for a stale one
                os.replace(beside, target)
        if os.name == "nt":  # no open file can be renamed there
            os.replace(beside, target)
    except BaseException:  # a full disk, or Ctrl-C: nothing half-written stays
        beside.unlink(missing_ok=True)
        raise


def _open_beside(target: pathlib.Path) -> tuple[IO[bytes], pathlib.Path]:
    """A new file of a name that nobody else has, locked where files can be."""
    while True:
        beside = target.with_name(f".{target.name}.{os.getpid():x}-{secrets.token_hex(8)}.part")
        file = open(beside, "xb")
        # another writer may take it for a stale one before it is locked: it is then locked, or removed, by that one
        if try_lock(file) is not False and (os.name == "nt" or os.fstat(file.fileno()).st_nlink):
            return file, beside
        file.close()
        beside.unlink(missing_ok=True)


def remove_stale(target: pathlib.Path) -> None:
    """Remove what killed writers of `target` left beside it: files of such a name that nobody has locked."""
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
        except OSError:  # another user's, or gone by now
            continue
