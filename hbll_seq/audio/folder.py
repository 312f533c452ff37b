"""A folder of recordings with labels: from its folders, from file names, or from a table."""

import csv
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hbll_seq.audio.files import KINDS, read
from hbll_seq.errors import InputError

Labels = str | os.PathLike[str] | Callable[[str], str]


def read_folder(
    path: str | os.PathLike[str], rate: int, *, labels: Labels = "folders", on_error: Literal["raise", "skip"] = "raise"
) -> tuple[list[Tensor], Tensor, list[str]]:
    """Read every sound file in a folder, with its label.

    Args:
        path: the folder.
        rate: samples per second of the result.
        labels: "folders", if `path` has a folder for each label; a function from a file's name without its
            ending to its label; or a CSV file with a header and the columns `file` (relative to `path`) and `label`.
        on_error: "raise" tries all files, then raises an error that names the unreadable ones; "skip" leaves them out
            with a warning that names them.

    Returns:
        Waves of unequal lengths, labels `(n,)` int64, and the labels' names in order. Files sorted by name.

    Raises:
        InputError: no labels, no files, missing files in the table, or a file that cannot be read.
    """
    if on_error not in ("raise", "skip"):
        raise InputError("on_error", repr(on_error), "'raise' or 'skip'")
    folder = Path(path)
    if not folder.is_dir():
        raise InputError("path", str(folder), "a folder of sound files")
    pairs = _pairs(folder, labels)
    if not pairs:
        raise InputError("path", f"{folder}: no sound file with a label", f"files ending in {', '.join(KINDS)}")
    waves, found, bad = [], [], []
    for file, label in pairs:
        try:
            waves.append(read(file, rate)[0])
            found.append(label)
        except InputError as error:
            bad.append(str(error))
    if bad and (on_error == "raise" or not waves):
        raise InputError("path", f"{len(bad)} unreadable files:\n" + "\n".join(bad), "sound files only")
    if bad:
        warnings.warn(f"{len(bad)} unreadable files left out:\n" + "\n".join(bad), stacklevel=2)
    names = sorted({label for _, label in pairs})
    return waves, torch.tensor([names.index(label) for label in found]), names


def _pairs(folder: Path, labels: Labels) -> list[tuple[Path, str]]:
    if callable(labels):
        return [(file, labels(file.stem)) for file in _sounds(folder)]
    if labels != "folders":
        return _table(folder, Path(labels))
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if not names:
        raise InputError("path", str(folder), "a folder with a folder of sound files for each label, or labels=...")
    return [(file, name) for name in names for file in _sounds(folder / name)]


def _sounds(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in KINDS)


def _table(folder: Path, table: Path) -> list[tuple[Path, str]]:
    if not table.is_file():
        raise InputError("labels", f"{table} (no such file)", "'folders', a function, or a CSV file")
    with table.open(newline="", encoding="utf-8") as f:
        rows = csv.DictReader(f)
        if not {"file", "label"} <= set(rows.fieldnames or ()):
            raise InputError("labels", f"{table} with columns {rows.fieldnames}", "columns 'file' and 'label'")
        pairs = [(folder / row["file"], row["label"]) for row in rows]
    absent = [str(file) for file, _ in pairs if not file.is_file()]
    if absent:
        raise InputError("labels", f"{len(absent)} files that are not there:\n" + "\n".join(absent), "files in path")
    return sorted(pairs)
