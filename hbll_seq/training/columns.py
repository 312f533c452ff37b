"""A history as a table: one row an update, empty where a figure was not measured."""

import csv
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

STEPS = {"gradient_cosine": "cosine_step", "deployed_gap": "gap_step", "amplification": "amplification_step"}
_BLOCKS = ("block_loss", "block_step", "skipped_step")  # no figure of one update


class Columns:
    """The columns of a history, in the order of first appearance: `step`, figures of updates, then all others.

    Args:
        history: `History.history`.

    Attributes:
        names: names of the columns; names of steps are none, they say in which row a figure belongs.
    """

    def __init__(self, history: Mapping[str, list[Any]]) -> None:
        steps = history["step"]
        own = {*STEPS.values(), "val_step", *_BLOCKS}
        rows = {step: row for row, step in enumerate(steps)}
        self._columns: dict[str, list[Any]] = {}
        for name, values in history.items():
            if name in own:
                continue
            column: list[Any] = [None] * len(steps)
            # strict=False: figures of a rule that an earlier part of the run had end with that part
            for step, value in zip(_steps_of(name, history, len(values)), values, strict=False):
                if step in rows:  # a validation after skipped updates alone has no row
                    column[rows[step]] = value
            self._columns[name] = column
        self.names = list(self._columns)

    def rows(self, first: int = 0) -> list[list[Any]]:
        """Return the rows from number `first` on."""
        return [list(row) for row in zip(*(column[first:] for column in self._columns.values()), strict=True)]

    def as_dict(self) -> dict[str, list[Any]]:
        """Return the columns by name, None where a figure was not measured."""
        return dict(self._columns)


def _steps_of(name: str, history: Mapping[str, list[Any]], count: int) -> list[int]:
    """Return the update of each of `count` values of a figure."""
    if name in STEPS:
        return history[STEPS[name]]
    # a longer list is a metric of updates that the user named so; a shorter one ended when the run was resumed
    if name.startswith("val_") and count <= len(history.get("val_step", [])):
        return history["val_step"]
    return history["step"]


def write_csv(path: str | pathlib.Path, columns: Columns) -> None:
    """Write a header and all rows."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        write_rows(file, [columns.names, *columns.rows()])


def write_rows(file: TextIO, rows: list[list[Any]]) -> None:
    """Append rows to an open file; a figure that was not measured is empty."""
    csv.writer(file).writerows([["" if value is None else value for value in row] for row in rows])
