"""A folder of recordings with labels or transcripts: from its folders, from file names, or from a table.

One unreadable file among thousands is reported and left out, not fatal.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from hbll_seq.audio.files import KINDS, read
from hbll_seq.audio.table import read_table
from hbll_seq.data.scalars import flag, integer, shown
from hbll_seq.errors import InputError, warn

Naming = str | os.PathLike[str] | Callable[[str], str]
BAR_FROM = 500  # files; fewer are read in about a second
SHOWN = 20  # problems in a message


class Problem(NamedTuple):
    """A sound that was left out.

    Attributes:
        file: its path.
        reason: why.
    """

    file: str
    reason: str


@dataclass(frozen=True)
class Recordings:
    """The sounds of a folder, in the order of their paths; `waves, labels, names = ...` or `waves, transcripts = ...`.

    Attributes:
        waves: each `(samples,)` float32 in -1..1.
        labels: `(n,)` int64, places in `names`; None with transcripts.
        names: the labels' names, in order; empty with transcripts.
        transcripts: a text for each wave; None with labels.
        files: the path of each wave.
        problems: sounds that were left out, with reasons.
        rate: samples per second.
    """

    waves: list[Tensor]
    labels: Tensor | None
    names: list[str]
    transcripts: list[str] | None
    files: list[Path]
    problems: list[Problem]
    rate: int

    def __iter__(self) -> Iterator[Any]:
        """Iterate over waves, labels and names, or over waves and transcripts."""
        return iter(
            (self.waves, self.labels, self.names) if self.transcripts is None else (self.waves, self.transcripts)
        )


def read_folder(
    path: str | os.PathLike[str], rate: int, *, labels: Naming = "folders", transcripts: Naming | None = None,
    columns: tuple[str, str] | None = None, strict: bool = False, progress: bool = True, **replaced: Any,
) -> Recordings:  # fmt: skip
    """Read every sound file in a folder and the folders in it, with its label or its transcript.

    Sounds of other rates are resampled to `rate`, channels averaged. Hidden files and those of other kinds are skipped.

    Args:
        path: the folder.
        rate: samples per second of the result.
        labels: "folders", if `path` has a folder for each label; a function from a file's name without its ending to
            its label; or a table: a CSV file (or TSV) with a header and the columns "path" (also "file", "file_name"),
            relative to `path`, and "label".
        transcripts: instead of labels a table with the columns "path" and "text" (also "transcript", "transcription",
            "sentence"), or a function from a file's name to its text.
        columns: names of the two columns of a table, if they have others.
        strict: raise an error that names every unreadable file, instead of leaving these out with a warning.
        progress: show a bar while many files are read.

    Raises:
        InputError: no such folder or table, no files, no labels, no readable file; with `strict` any problem.
    """
    if replaced:
        name = next(iter(replaced))
        wanted = "no such argument" if name != "on_error" else "strict=True for on_error='raise'; 'skip' is the default"
        raise InputError(name, shown(replaced[name]), wanted)
    rate, strict, progress = integer("rate", rate), flag("strict", strict), flag("progress", progress)
    folder = _folder(path)
    if transcripts is not None and labels != "folders":
        raise InputError("transcripts", "given beside labels", "one of the two")
    name, naming = ("labels", labels) if transcripts is None else ("transcripts", transcripts)
    pairs, problems = _pairs(folder, name, naming, columns)
    if not pairs and not problems:
        raise InputError("path", f"{folder}: no sound file with a {name[:-1]}", f"files ending in {', '.join(KINDS)}")
    waves, files, found = [], [], []
    bar = tqdm(pairs, disable=not progress or len(pairs) < BAR_FROM, unit="file", dynamic_ncols=True, file=sys.stdout)
    for file, given in bar:
        try:
            waves.append(read(file, rate)[0])
        except InputError as error:
            problems.append(Problem(str(file), str(error.got).removeprefix(f"{file} ").strip("()")))
            continue
        files.append(file)
        found.append(given)
    _report(problems, strict or not waves)
    if transcripts is not None:
        return Recordings(waves, None, [], found, files, problems, rate)
    names = sorted({given for _, given in pairs})
    places = {one: i for i, one in enumerate(names)}
    return Recordings(waves, torch.tensor([places[one] for one in found]), names, None, files, problems, rate)


def _folder(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike) or not Path(path).is_dir():
        raise InputError("path", shown(path), "a folder of sound files")
    return Path(path)


def _report(problems: list[Problem], fatal: bool) -> None:
    if not problems:
        return
    lines = [f"{problem.file}: {problem.reason}" for problem in problems[:SHOWN]]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    text = "\n".join([*lines, *more])
    if fatal:
        raise InputError("path", f"{len(problems)} unreadable sounds:\n{text}", "sounds that can be read")
    warn(f"{len(problems)} unreadable sounds left out (see .problems):\n{text}", UserWarning)


def _pairs(
    folder: Path, name: str, naming: Naming, columns: tuple[str, str] | None
) -> tuple[list[tuple[Path, str]], list[Problem]]:
    """Return files with their labels or transcripts, sorted, and what a table has no file or text for."""
    if not callable(naming) and not (name == "labels" and naming == "folders"):
        rows, bad = read_table(folder, naming, name, columns)
        return sorted(rows), [Problem(*one) for one in bad]
    if columns is not None:
        raise InputError("columns", shown(columns), "None without a table")
    if callable(naming):
        return [(file, _named(naming, file, name)) for file in _sounds(folder)], []
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError("path", str(folder), "a folder with a folder of sound files for each label, or labels=...")
    return [(file, one) for one in names for file in _sounds(folder / one)], []


def _named(naming: Callable[[str], str], file: Path, name: str) -> str:
    given = naming(file.stem)
    if not isinstance(given, str):
        raise InputError(name, f"a function that returns {shown(given)} for {file.stem!r}", "a function to a string")
    return given


def _sounds(folder: Path) -> list[Path]:
    """Return the sound files in a folder and below, sorted by path."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in KINDS and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
