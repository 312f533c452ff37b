"""A table of sounds: a CSV or TSV file with a header, one column of paths and one of labels or transcripts."""

import csv
import os
from pathlib import Path
from typing import Any

from hbll_seq.data.scalars import shown
from hbll_seq.errors import InputError

FILES = ("path", "file", "file_name")
TEXTS = {"labels": ("label",), "transcripts": ("text", "transcript", "transcription", "sentence")}


def read_table(
    folder: Path, table: Any, name: str, columns: tuple[str, str] | None
) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """Read a table of sounds.

    Args:
        folder: where paths begin.
        table: the file, as it is or in `folder`.
        name: "labels" or "transcripts", the argument's name and the kind of the second column.
        columns: names of the two columns; None for a usual one.

    Returns:
        Files that exist, with their text, in the table's order; and (file, reason) for the other rows.

    Raises:
        InputError: no such table, one that is no text, or one without these columns.
    """
    if not isinstance(table, str | os.PathLike):
        raise InputError(name, shown(table), "a CSV file, or a function from a file's name")
    where = next((one for one in (Path(table), folder / table) if one.is_file()), None)
    if where is None:
        kinds = "'folders', a function, or a CSV file" if name == "labels" else "a CSV file, or a function"
        raise InputError(name, f"{table} (no such file)", kinds)
    try:
        with where.open(newline="", encoding="utf-8-sig") as f:  # Excel writes a byte order mark
            delimiter = _delimiter(f.readline(), where)
            f.seek(0)
            rows = list(csv.reader(f, delimiter=delimiter, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(name, f"{where} ({error})", "a CSV file in UTF-8 with a header") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    path, text = _columns(header, where, name, columns)
    return _read_rows(rows[1:], folder, path, text, name, len(header))


def _read_rows(
    rows: list[list[str]], folder: Path, path: int, text: int, name: str, width: int
) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    found: dict[Path, str] = {}
    bad: list[tuple[str, str]] = []
    for number, row in enumerate(rows, 2):
        if not any(cell.strip() for cell in row):
            continue  # an empty line
        given = row[path].strip() if path < len(row) else ""
        file = folder / given
        if not given or text >= len(row) or not row[text].strip():
            bad.append((str(file), f"row {number} of the table has no {'file' if not given else name[:-1]}"))
        elif any(cell.strip() for cell in row[width:]):  # the text would end at its first comma
            bad.append((str(file), f"row {number} of the table has {len(row)} cells, not {width}: quote texts"))
        elif file in found:
            bad.append((str(file), f"row {number} of the table names it again"))
        elif not file.is_file():
            bad.append((str(file), "no such file"))
        else:
            found[file] = row[text].strip()
    return list(found.items()), bad


def _columns(header: list[str], where: Path, name: str, columns: Any) -> tuple[int, int]:
    """Return the places of the two columns."""
    choices: tuple[Any, Any] = (FILES, TEXTS[name])
    if columns is not None:
        if not isinstance(columns, tuple | list) or len(columns) != 2 or not all(isinstance(c, str) for c in columns):
            raise InputError("columns", shown(columns), 'two names, such as ("path", "text")')
        choices = ((columns[0],), (columns[1],))
    places = [next((header.index(one) for one in some if one in header), None) for some in choices]
    first, second = places
    if first is None or second is None:
        wanted = " and ".join(" or ".join(map(repr, some)) for some in choices)
        raise InputError(name, f"{where} with columns {header}", f"columns {wanted}; or columns=")
    return first, second


def _delimiter(header: str, where: Path) -> str:
    if where.suffix.lower() == ".tsv" or "\t" in header:
        return "\t"
    return ";" if ";" in header and "," not in header else ","
