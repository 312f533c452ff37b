"""Downloads of one file: resumable, checked, and never half there.

Bytes go to `<file>.part`; only a complete file with the right SHA-256 takes the real name, by an
atomic rename. An interrupted transfer keeps its part, and the next call requests the rest.
"""

import hashlib
import http.client
import os
import shlex
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

_CHUNK = 1 << 16


_CAUSE = "A proxy's page in place of the file is the usual cause: call again."


class _OtherFile(Exception):
    """The server sends another file than the expected one."""


class DownloadError(OSError):
    """A download that failed or gave another file; the message names a remedy."""


def fetch(
    url: str, sha256: str, target: Path, timeout: float = 30.0, progress: bool = False, size: int | None = None
) -> Path:  # fmt: skip
    """Make `target` the file at `url`; download only the missing bytes.

    Args:
        url: http(s) address.
        sha256: expected digest, in hexadecimal.
        target: where the file goes; folders are made. A file already there is checked, not trusted.
        timeout: seconds without an answer before giving up.
        progress: show a bar.
        size: expected bytes, or None if unknown; a server that announces or sends other sizes fails at once.

    Returns:
        `target`.

    Raises:
        DownloadError: no connection, an interrupted transfer (its bytes are kept for the next call), or a wrong size
            or digest (the bytes are removed).
    """
    if target.is_file() and digest(target) == sha256:
        return target
    part = target.with_name(target.name + ".part")
    by_hand = f"Or fetch it by hand:\n  curl -fL {url} -o {shlex.quote(str(target))}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (part.is_file() and digest(part) == sha256):  # complete, but stopped before the rename
            _transfer(url, part, timeout, progress, size)
    except _OtherFile as error:
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} gave another file: {error}; it was removed. {_CAUSE} {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        kept = part.stat().st_size if part.is_file() else 0
        resume = f" The {kept:,} bytes that came are kept, and the same call resumes." if kept else ""
        raise DownloadError(
            f"could not download {url}: {error}.{resume} Check the connection and call again. {by_hand}"
        ) from error
    found = digest(part)
    if found != sha256:
        part.unlink()
        raise DownloadError(
            f"{url} gave a file with SHA-256 {found}, expected {sha256}; it was removed. {_CAUSE} {by_hand}"
        )
    os.replace(part, target)
    return target


def digest(file: Path) -> str:
    """Return the SHA-256 of `file`, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _transfer(url: str, part: Path, timeout: float, progress: bool, size: int | None) -> None:
    """Bring `part` to its full length, from where it stops if the server can resume."""
    have = part.stat().st_size if part.is_file() else 0
    try:
        response = _open(url, have, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # Range not satisfiable: the part is not a beginning of today's file. Start again.
        error.close()
        part.unlink()
        response = _open(url, 0, timeout)
    with response:
        # A server that cannot resume answers 200 and sends everything once more.
        on = response.status == 206
        have = _resumed_at(response, have) if on else 0
        left = _announced(response)
        total = None if left is None else left + have
        if size is not None and total is not None and total != size:
            raise _OtherFile(f"one of {total:,} bytes, expected {size:,}")
        most = total if size is None else size
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
        with part.open("ab" if on else "wb") as file, bar:
            while chunk := response.read(_CHUNK):
                have += len(chunk)
                if most is not None and have > most:
                    raise _OtherFile(f"one of more than {most:,} bytes")
                bar.update(file.write(chunk))
                left = None if left is None else left - len(chunk)
    # Sized reads end quietly when the connection does, so the count is checked here.
    if left:
        raise ConnectionError(f"the connection ended {left:,} bytes early")
    if size is not None and have < size:  # the length was not announced
        raise ConnectionError(f"the connection ended {size - have:,} bytes early")


def _announced(response: Any) -> int | None:
    """Return the length in the header; None if it is missing or not a number."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _resumed_at(response: Any, asked: int) -> int:
    """Return the first byte of the rest; refuse another than `asked`, which would be appended at a wrong place."""
    text = response.headers.get("Content-Range")
    if text is None:  # some servers omit it; the digest decides
        return asked
    start = text.removeprefix("bytes ").split("-")[0].strip()
    if start != str(asked):
        raise _OtherFile(f"the rest from byte {start} on, asked for {asked}")
    return asked


def _open(url: str, start: int, timeout: float) -> Any:
    """Return the response to a request for `url` from byte `start` on."""
    headers = {"User-Agent": "hbll_seq", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
