"""Tiny Shakespeare: the character text that others report on (nanoGPT, char-rnn)."""

import os
from pathlib import Path
from typing import Any

from hbll_seq.datasets.download import digest, fetch
from hbll_seq.datasets.location import cache_folder, from_environment
from hbll_seq.datasets.split_text import Text
from hbll_seq.errors import InputError

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SIZE = 1_115_394  # bytes
TRAIN_CHARACTERS = 1_000_000


def load_tinyshakespeare(
    path: str | os.PathLike[str] | None = None, download: bool = False, tokenizer: Any = "char"
) -> Text:
    """Load Tiny Shakespeare, 1,115,394 characters, 65 symbols, public domain.

    The first 1,000,000 characters are `train`, the rest is `valid`; `test` is empty, because the
    usual split has two parts.

    Args:
        path: the file, or the folder with its `input.txt`. When None:
            `$HBLL_SEQ_DATA/tinyshakespeare/input.txt`, then an earlier download.
        download: fetch it (1.1 MB) if it is in none of these places. With `path`, nothing is fetched.
        tokenizer: see `hbll_seq.datasets.text`.

    Raises:
        InputError: no such file, or a text too short to split; the message names a remedy.
        DownloadError: `download=True` and it could not be fetched.
    """
    file = _find(path, download)
    # Bytes, then UTF-8: reading as text would translate line ends and change the hash.
    text = file.read_bytes().decode("utf-8")
    if len(text) <= TRAIN_CHARACTERS:
        raise InputError("path", f"{len(text):,} characters in {file}", f"more than {TRAIN_CHARACTERS:,}")
    return Text.from_string(text, f"tiny Shakespeare, {file}", TRAIN_CHARACTERS, len(text), tokenizer)


def _find(path: str | os.PathLike[str] | None, download: bool) -> Path:
    """Return the path of the file, fetched first if necessary."""
    if path is not None:
        given = Path(path).expanduser()
        file = given / "input.txt" if given.is_dir() else given
        if not file.is_file():
            raise InputError("path", f"no file {file}", "tiny Shakespeare's input.txt, or its folder")
        return file
    local = from_environment("tinyshakespeare", "input.txt")
    if local is not None and local.is_file():
        return local
    cached = cache_folder() / "tinyshakespeare" / "input.txt"
    if download:
        return fetch(URL, SHA256, cached, size=SIZE)
    if cached.is_file() and digest(cached) == SHA256:
        return cached
    looked = f"no file {local}" if local is not None else "HBLL_SEQ_DATA not set"
    raise InputError(
        "path",
        f"{looked}, and no earlier download",
        "load('tinyshakespeare', download=True) on a machine with a network, or "
        f"tinyshakespeare/input.txt in the folder HBLL_SEQ_DATA names, or path=; the file is {URL}",
    )
