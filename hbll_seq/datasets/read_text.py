"""A text of the user's: a string, a file, or a folder of files."""

import os
from pathlib import Path
from typing import Any

from hbll_seq.datasets.split_text import Text, ends
from hbll_seq.errors import InputError, warn

SHORT = 1000  # characters of a line that is taken for a path


def text(
    source: str | os.PathLike[str],
    tokenizer: Any = "char",
    *,
    valid: float = 0.05,
    test: float = 0.05,
    pattern: str = "*.txt",
    encoding: str = "utf-8",
) -> Text:
    """Read a text of your own, in three contiguous parts: the first to train on, then `valid`, then `test`.

    Args:
        source: a file, a folder, or the text itself: a string with a line end, or of more than 1,000 characters, or
            any string by `Text.from_string`. Files of a folder are read in the order of their paths, a blank line
            between them. Files that `encoding` cannot read are left out, with a warning; `.skipped` names them.
        tokenizer: "char", "byte" (of UTF-8), "word:5000" (its most frequent words) or "bpe:1000" (byte-pair encoding
            of so many symbols, by the package `tokenizers`), both learned from the training part alone; a tokenizer of
            `hbll_seq.text`, or any object with `encode(text)` and `decode(symbols)`.
        valid: share of the characters for `valid`.
        test: share for `test`; 0 for none.
        pattern: files of a folder, as `Path.rglob` has it: "*.txt" are those of all folders inside, too.
        encoding: of the files.

    Raises:
        InputError: no such file, no file that can be read, shares that leave an empty part, or a tokenizer that
            cannot be made.
        ImportError: "bpe:..." without the package `tokenizers`.
    """
    skipped: tuple[str, ...] = ()
    if isinstance(source, str) and ("\n" in source or len(source) > SHORT):
        whole, came = source, "a string"
    elif isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        came = str(path)
        if os.path.isdir(path):  # not `path.is_dir()`, which fails for a line too long for a name
            whole, skipped = _folder(path, pattern, encoding)
        elif os.path.isfile(path):
            whole = read(path, encoding)
        else:
            raise InputError("source", f"no file or folder {path}", "a path, or a text of more than one line")
    else:
        raise InputError("source", type(source).__name__, "a path, or the text itself")
    if len(whole) < 20:
        raise InputError("source", f"a text of {len(whole)} characters", "at least 20")
    first, second = ends(len(whole), valid, test)
    return Text.from_parts(
        whole[:first], whole[first:second], whole[second:], source=came, tokenizer=tokenizer, skipped=skipped
    )


def read(file: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file with its line ends, without a byte-order mark.

    Raises:
        InputError: it cannot be read; the message names the file and the first wrong byte.
    """
    try:
        return file.read_bytes().decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError("source", f"{file}, byte {error.start}: {error.reason}", f"text in {encoding}") from error
    except (LookupError, TypeError) as error:
        raise InputError("encoding", repr(encoding), "an encoding of Python's") from error
    except OSError as error:
        raise InputError("source", f"{file} ({error.strerror})", "a file that can be read") from error


def _folder(folder: Path, pattern: str, encoding: str) -> tuple[str, tuple[str, ...]]:
    """Return the text of all files, and the files left out."""
    if not isinstance(pattern, str) or not pattern or os.path.isabs(pattern):
        raise InputError("pattern", repr(pattern), 'a pattern of file names, such as "*.txt"')
    if ".." in pattern.replace("\\", "/").split("/"):
        raise InputError("pattern", f"{pattern!r}, which leaves the folder", 'one inside it, such as "*.txt"')
    parts, bad = [], []
    try:
        found = sorted(p for p in folder.rglob(pattern) if p.is_file())
    except (ValueError, NotImplementedError) as error:  # pathlib's errors for a pattern that is none
        raise InputError("pattern", repr(pattern), f'a pattern of file names, such as "*.txt" ({error})') from error
    for file in found:
        try:
            parts.append(read(file, encoding))
        except InputError as error:
            if error.argument != "source":
                raise
            bad.append(str(error.got))
    if not parts:
        came = f"{folder}: " + (f"no file that {encoding} can read:\n" + "\n".join(bad) if bad else f"no {pattern}")
        raise InputError("source", came, "a folder with text files; pattern= says which")
    if bad:
        warn(f"{len(bad)} files that {encoding} cannot read are left out:\n" + "\n".join(bad), UserWarning)
    return "\n\n".join(parts), tuple(bad)
