"""Text that every CPython carries: its language reference (prose) and its library (code).

The default text of this package: real English without a download. Both texts change with Python's
version, so `.source` has the version and `.sha256` the hash.
"""

import hashlib
import os
import platform
import sysconfig
import tokenize
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbll_seq.datasets.split_text import Text
from hbll_seq.errors import InputError

# Typographic signs with an obvious ASCII spelling. Some twenty signs used once each would only
# widen the read-out and differ between Python versions.
_SPELLING = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "...", "ß": "ss", "×": "x"}
)

# Folders with no library source in them, with tests (which some distributions leave out), with
# tables that a program wrote (encodings), or with the text of "pydoc".
_SKIPPED_FOLDERS = {
    "__pycache__",
    "dist-packages",
    "encodings",
    "idle_test",
    "lib-dynload",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}


def load_pydoc(tokenizer: Any = "char") -> Text:
    """Load CPython's `pydoc_data.topics`: the language reference, prose and code, some 0.47 million characters.

    Topics sorted by key, a blank line between them, non-ASCII mapped out; 90 / 5 / 5 % contiguous. `tokenizer`: see
    `hbll_seq.datasets.text`.

    Raises:
        InputError: this Python was stripped of `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "name", "'pydoc' on a Python without pydoc_data", "a full CPython, or load('stdlib')"
        ) from error
    text = "\n\n".join(topics[key] for key in sorted(topics))
    return Text.from_string(ascii_only(text), f"pydoc_data.topics of {_python()}", tokenizer=tokenizer)


def load_stdlib(limit_characters: int = 4_000_000, tokenizer: Any = "char") -> Text:
    """Load the standard library's source without its tests, whole files in a fixed shuffled order.

    Non-ASCII mapped out; the first `limit_characters`, split 90 / 5 / 5 % contiguous. Files are sorted
    by the hash of their path: sorted by path, `valid` would be a package absent from `train`. `tokenizer`: see
    `hbll_seq.datasets.text`.

    Raises:
        InputError: `limit_characters` is below 1,000, or this Python came without readable source.
    """
    if limit_characters < 1000:
        raise InputError("limit_characters", limit_characters, "at least 1000")
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts: list[str] = []
    characters = 0
    for part in _sources(folder):
        parts.append(part)
        characters += len(part)
        if characters >= limit_characters:
            break
    if characters < 1000:
        raise InputError("name", f"'stdlib', with no source under {folder}", "a Python with its .py files")
    source = f"standard library source of {_python()}"
    return Text.from_string("".join(parts)[:limit_characters], source, tokenizer=tokenizer)


def ascii_only(text: str) -> str:
    """Return `text` without non-ASCII: known signs spelled out, accents dropped, anything else `?`."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text.translate(_SPELLING))
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return kept.encode("ascii", "replace").decode("ascii")


def _sources(folder: Path) -> Iterator[str]:
    """Iterate over the library files' texts, in an order that no file system changes."""
    names = []
    for here, folders, files in os.walk(folder):
        # In place: os.walk then never enters them, and site-packages can be large.
        folders[:] = [f for f in folders if f not in _SKIPPED_FOLDERS and not f.startswith("config-")]
        names += [(Path(here) / f).relative_to(folder).as_posix() for f in files if f.endswith(".py")]
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if name.startswith("_sysconfigdata"):  # written when Python is built, different on every machine
            continue
        try:
            with tokenize.open(folder / name) as file:  # respects the file's own coding line
                yield ascii_only(file.read())
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue  # lib2to3 ships files that are broken on purpose


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
