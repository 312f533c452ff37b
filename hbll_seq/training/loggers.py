"""Callbacks that write figures and models down while a run goes on: CSV, TensorBoard, the best model so far."""

import math
import os
import pathlib
from typing import Any, Literal

from hbll_seq.checkpoint.saved_model import save
from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError
from hbll_seq.optional import optional
from hbll_seq.training.columns import Columns, write_csv, write_rows
from hbll_seq.training.history import History

LESS = ("loss", "perplexity", "error_rate", "per_byte")  # ends of the names of figures of which less is better


class CSVLogger:
    """Write every figure to a CSV file: one row an update, as `History.to_csv` does, added at every validation.

    A resumed run writes the whole of its history.

    Args:
        path: the file; it is replaced.
        every: most updates between two writings.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 50) -> None:
        self.path, self.every = _path(path), integer("every", every)
        self._names: list[str] = []
        self._rows = 0

    def on_fit_begin(self, run: History) -> None:
        """Fail before any work where the file cannot be written."""
        self._names, self._rows = [], 0
        self._write(run)

    def on_step_end(self, run: History, step: int) -> None:
        """Add the rows of the last updates, now and then."""
        if step % self.every == 0:
            self._write(run, held=1)  # a validation of this update is still to come

    def on_validation(self, run: History, step: int) -> None:
        """Add the rows up to this validation."""
        self._write(run)

    def on_fit_end(self, run: History) -> None:
        """Write all rows: a figure may have come after its row was written."""
        write_csv(self.path, Columns(run.history))

    def _write(self, run: History, held: int = 0) -> None:
        """Add rows, but for the last `held`."""
        columns = Columns(run.history)
        anew = columns.names != self._names  # a first validation brings new columns
        end = max(len(run.history["step"]) - held, 0)
        first = 0 if anew else self._rows
        rows = columns.rows(first)[: max(end - first, 0)]
        with open(self.path, "w" if anew else "a", encoding="utf-8", newline="") as file:
            write_rows(file, [columns.names, *rows] if anew else rows)
        self._names, self._rows = columns.names, first + len(rows)


class TensorBoard:
    """Write every number of the history as a TensorBoard scalar, named `train/loss`, `validation/loss` and so on.

    Args:
        folder: where the event files go; one folder a run.
        every: updates between two scalars of training. Validations are all written.

    Raises:
        ImportError: tensorboard is not installed (`pip install 'hbll_seq[tensorboard]'`).
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 1) -> None:
        self.folder, self.every = _path(folder), integer("every", every)
        optional("tensorboard", "tensorboard", "TensorBoard")
        self._writer: Any = None

    def on_fit_begin(self, run: History) -> None:
        """Open an event file; a resumed run adds one that starts where it resumes."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=len(run.history["step"]) + 1)

    def on_step_end(self, run: History, step: int) -> None:
        """Write the figures of an update."""
        if step % self.every == 0 and run.history["step"][-1:] == [step]:
            count = len(run.history["step"])
            figures = {n: v[-1] for n, v in run.history.items() if len(v) == count and not n.endswith("step")}
            self._add("train", figures, step)

    def on_validation(self, run: History, step: int) -> None:
        """Write the figures of a validation."""
        count = len(run.history["val_step"])
        figures = {n: v[-1] for n, v in run.history.items() if n.startswith("val_") and len(v) == count}
        self._add("validation", {n.removeprefix("val_"): v for n, v in figures.items() if n != "val_step"}, step)

    def on_fit_end(self, run: History) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, group: str, figures: dict[str, Any], step: int) -> None:
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"{group}/{name}", value, step)


class BestCheckpoint:
    """Save the model at every validation that is better than all before.

    The file is one of `hs.save`, replaced as a whole. A run that stops in any way leaves the best model so far.

    Args:
        path: the file.
        monitor: name in the history, e.g. "val_loss" or "val_accuracy".
        mode: "min", "max" or "auto", see `EarlyStopping`.

    Attributes:
        best: the best figure so far, NaN before the first.
        step: its update, 0 before the first.
    """

    def __init__(
        self, path: str | os.PathLike[str], monitor: str = "val_loss", mode: Literal["auto", "min", "max"] = "auto"
    ) -> None:
        self.path, self.monitor, self.sign = _path(path), monitor, sign_of(monitor, mode)
        self.best, self.step = math.nan, 0

    def on_fit_begin(self, run: History) -> None:
        """Forget earlier runs."""
        self.best, self.step = math.nan, 0

    def on_validation(self, run: History, step: int) -> None:
        """Save the model if it is the best so far."""
        value = latest(run, self.monitor)
        better = self.sign * value < self.sign * self.best
        if run.model is not None and (better or (math.isnan(self.best) and not math.isnan(value))):
            save(run.model, self.path)
            self.best, self.step = value, step

    def state_dict(self) -> dict[str, Any]:
        """Return the state that keeps a resumed run from replacing a better model."""
        return {"best": self.best, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self.best, self.step = state["best"], state["step"]


def latest(run: History, monitor: str) -> float:
    """Return the latest figure of a name; "accuracy" is found as "val_accuracy" where training has none.

    Raises:
        InputError: the history has no such figure.
    """
    values = run.history.get(monitor) or run.history.get(f"val_{monitor}")
    if not values:
        raise InputError("monitor", repr(monitor), f"one of {sorted(run.history)}")
    return float(values[-1])


def sign_of(monitor: Any, mode: Any) -> float:
    """Return 1.0 where less of a figure is better, -1.0 where more is.

    Raises:
        InputError: another mode, or "auto" for a figure of which nobody can know.
    """
    if not isinstance(monitor, str):
        raise InputError("monitor", type(monitor).__name__, "the name of a figure")
    if mode in ("min", "max"):
        return 1.0 if mode == "min" else -1.0
    if mode != "auto":
        raise InputError("mode", repr(mode), "'min', 'max' or 'auto'")
    if monitor.endswith("accuracy"):
        return -1.0
    if monitor.endswith(LESS):
        return 1.0
    raise InputError("mode", f"'auto' for {monitor!r}", "'min' or 'max': is less or more of it better?")


def _path(path: Any) -> pathlib.Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", type(path).__name__, "a path")
    return pathlib.Path(path)
