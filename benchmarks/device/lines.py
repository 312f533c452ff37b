"""One JSON object a line, on disk as soon as it is known."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

Line = dict[str, Any]


class Lines:
    """Appends to a file.

    Args:
        path: of the file; it is made, with its folder, at the first line.
        common: what every line says beside its own fields.
    """

    def __init__(self, path: pathlib.Path, **common: Any) -> None:
        self.path, self.common = path, common

    def write(self, **line: Any) -> Line:
        """Add a line; what it says itself goes before what is common."""
        whole = {**self.common, **line}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:  # opened every time: nothing is lost with the process
            file.write(json.dumps(whole, default=str) + "\n")
        return whole


def read(path: pathlib.Path) -> Iterator[Line]:
    """All whole lines of a file; half a line, where a machine went away while it was written, is passed over."""
    if not path.exists():
        return
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
