"""A lock for one writer at a time, across processes; the system drops it when its holder ends in any way.

On Linux and macOS the lock is `flock`'s, on Windows `msvcrt.locking`'s. Some network file systems have neither: a run
then continues without a lock, with a warning.
"""

import os
import pathlib
import platform
import warnings
import weakref
from typing import IO, Any

from hbll_seq.errors import InputError

_FAR = 1 << 40  # Windows makes locked bytes unreadable: this byte is beyond every file


def try_lock(file: IO[bytes]) -> bool | None:
    """Lock an open file for this handle: True on success, False if another handle has it, None if files cannot be
    locked.

    Closing the file releases the lock.
    """
    try:
        import fcntl
    except ImportError:
        return _try_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _try_windows(file: IO[bytes]) -> bool | None:
    try:
        import msvcrt
    except ImportError:
        return None
    module: Any = msvcrt  # its functions exist only on Windows
    where = file.tell()
    file.seek(_FAR)
    try:
        module.locking(file.fileno(), module.LK_NBLCK, 1)
    except PermissionError:
        return False
    except OSError:
        return None
    finally:
        file.seek(where)
    return True


class WriterLock:
    """The right to write a file, held until `release`. Its lock file is `.<name>.lock` beside the file.

    Args:
        target: the file to write.

    Raises:
        InputError: another run holds it, in this process or another; or the folder is not writable.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(target).with_name(f".{pathlib.Path(target).name}.lock")
        self._file: IO[bytes] | None = None
        name = os.fspath(target)
        for _ in range(100):
            try:
                file = open(self._path, "a+b")
            except OSError as error:
                raise InputError("checkpoint", f"{name!r} ({error})", "a file that can be written") from error
            got = try_lock(file)
            if got is False:
                file.seek(0)
                holder = file.read(200).decode(errors="replace").strip()
                file.close()
                what = f"{name!r}, which another run{f' ({holder})' if holder else ''} is writing"
                raise InputError("checkpoint", what, "a file of its own for each run")
            if got is None:
                self._without(file, name)
                return
            if self._is_mine(file):
                break
            file.close()  # its last holder removed it after it was opened here
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}".encode())
        file.flush()
        self._file = file
        _held.add(self)

    def _without(self, file: IO[bytes], name: str) -> None:
        file.close()
        self._path.unlink(missing_ok=True)
        warnings.warn(
            f"checkpoint {name!r}: files cannot be locked there; a second run that writes it would not be noticed",
            stacklevel=5,
        )

    def _is_mine(self, file: IO[bytes]) -> bool:
        """Return whether the name still belongs to the locked file."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock, and remove its file."""
        file, self._file = self._file, None
        if file is None:
            return
        _held.discard(self)
        try:  # removed while locked, so that nobody can hold another file of that name
            self._path.unlink(missing_ok=True)
        except OSError:  # Windows removes no open file: the unlocked file stays
            pass
        file.close()

    def forget(self) -> None:
        """Close a forked child's copy of the handle, which would keep the lock after its holder's end."""
        if self._file is not None:
            self._file.close()
            self._file = None


_held: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
