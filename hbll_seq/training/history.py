"""The record of a run: figures per update, the reason it stopped, and ways to look at them."""

import html
import json
import math
import pathlib
import platform
from collections.abc import Iterator, KeysView
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from hbll_seq.optional import optional
from hbll_seq.training.columns import Columns, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Best(NamedTuple):
    """The validation with the lowest loss.

    Attributes:
        step: its update, from 1.
        metrics: the figures of that validation by name, `val_loss` among them.
    """

    step: int
    metrics: dict[str, float]


class History:
    """Result of `fit`.

    `run["loss"]` is `run.history["loss"]`; `"loss" in run` and `run.keys()` are as for that dictionary.

    Attributes:
        model: the trained model (the object that was given to `fit`).
        history: lists by name, as Keras has them. One number an update: `step` (from 1), `loss` (nats, or squared
            units), `lr`, `grad_norm` (before clipping), `seconds` (since the start of training), and the rule's
            metrics: for `hbll` `schedule` (the schedule used, and any it replaced), `boundaries` and `messages`
            ("exact", "within tolerance" or "forced"), `sweeps`, `corrections`, `inconsistency`,
            `feedback_residual`, `fallbacks`, `tolerance`, `pull`, `discount` (mean over blocks), `carry_weight`,
            `depth`; and the user's metrics, in validations as `val_<name>`. One a validation: `val_step`, `val_loss`,
            and for classification `val_accuracy`. On request:
            `gradient_cosine` with `cosine_step`.
            Every `record_every` steps: `block_loss`, the list of each block's mean loss (each node's, for layered
            networks), with `block_step`; `deployed_gap` with `gap_step`, and `amplification` with
            `amplification_step` (above 30 rounding decides the gradient), where the rule measures them.
        stopped_reason: "finished", "early_stopping", "callback", "interrupted" or "diverged".
        config: the arguments of `fit`, as JSON-able values.
        versions: versions of Python, torch and this package, and the number of threads.
        changes: one entry for every time the run was resumed with other settings (`resume="changed"`), or on another
            device or version: `{"step": updates made before, "changed": {name: [was, is]}}`. `config` and `versions`
            are those of the last call.
    """

    def __init__(self, model: nn.Module | None, config: dict[str, Any], versions: dict[str, Any]) -> None:
        self.model, self.config, self.versions = model, config, versions
        self.history: dict[str, list[Any]] = {"step": [], "loss": []}  # present even if no update was completed
        self.stopped_reason = "finished"
        self.changes: list[dict[str, Any]] = []

    def add(self, **values: Any) -> None:
        """Append one value to each named list."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[Any]:
        """Return the list of a figure. A KeyError names those that there are."""
        if name not in self.history:
            raise KeyError(f"{name!r}: not in this history, which has {sorted(self.history)}")
        return self.history[name]

    def __contains__(self, name: object) -> bool:
        """Say whether the history has a figure of this name."""
        return name in self.history

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the figures."""
        return iter(self.history)

    def keys(self) -> KeysView[str]:
        """Return the names of the figures."""
        return self.history.keys()

    @property
    def best(self) -> Best | None:
        """The validation with the lowest `val_loss`, the first of equals; None if there was none."""
        losses = [(math.inf if math.isnan(one) else one) for one in self.history.get("val_loss", [])]
        if not losses:
            return None
        at = losses.index(min(losses))
        count, names = len(losses), (n for n in self.history if n.startswith("val_") and n != "val_step")
        values = {name: self.history[name][at] for name in names if len(self.history[name]) == count}
        return Best(self.history["val_step"][at], values)

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame`: one row an update, with `step` as index, NaN where a figure was not measured.

        The losses of blocks and the numbers of skipped updates are not in it.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = optional("pandas", "frames", "History.to_frame")
        return pandas.DataFrame(Columns(self.history).as_dict()).set_index("step")

    def to_csv(self, path: str | pathlib.Path) -> None:
        """Write the table of `to_frame` as CSV, empty where a figure was not measured. It needs no pandas."""
        write_csv(path, Columns(self.history))

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """Return everything but the model as JSON; also write it to `path` if given."""
        text = json.dumps(
            {
                "history": _plain(self.history),
                "stopped_reason": self.stopped_reason,
                "config": _plain(self.config),
                "versions": self.versions,
                "changes": _plain(self.changes),
            },
            allow_nan=False,
        )
        if path is not None:
            pathlib.Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, text: str | pathlib.Path, model: nn.Module | None = None) -> "History":
        """Rebuild from the text of `to_json`, or from the `pathlib.Path` of its file."""
        data = json.loads(text.read_text(encoding="utf-8") if isinstance(text, pathlib.Path) else text)
        result = cls(model, data["config"], data["versions"])
        result.history, result.stopped_reason = _floats(data["history"]), data["stopped_reason"]
        result.changes = data.get("changes", [])  # older versions recorded none
        return result

    def table(self) -> list[tuple[str, str]]:
        """Return the main figures as (name, value)."""
        h = self.history
        rows = [("rule", str(self.config.get("rule"))), ("steps", str(len(h.get("step", []))))]
        if h.get("loss"):
            rows.append(("training loss", f"{sum(h['loss'][-20:]) / len(h['loss'][-20:]):.4f}"))
        if (best := self.best) is not None:
            least = f"best {best.metrics['val_loss']:.4f} at step {best.step}"
            rows.append(("held-out loss", f"{h['val_loss'][-1]:.4f} ({least})"))
        if h.get("val_accuracy"):
            rows.append(("held-out accuracy", f"{100 * h['val_accuracy'][-1]:.1f} %"))
        if h.get("seconds"):
            rows.append(("seconds", f"{h['seconds'][-1]:.1f}"))
        if h.get("depth"):
            rows.append(("sequential depth", f"{sorted(h['depth'])[len(h['depth']) // 2]:.0f}"))
        if h.get("gradient_cosine"):
            rows.append(("gradient cosine to BPTT", f"least {min(h['gradient_cosine']):.4f}"))
        if streams := self.config.get("streams"):
            left = f", {streams['left_out']} left out" if streams["left_out"] else ""
            rows.append(("streams", f"{streams['streams']} of {streams['time_steps']} time steps{left}"))
        return [*rows, ("stopped", self.stopped_reason)]

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Plot learning curves; see `hbll_seq.plot.learning_curve`."""
        from hbll_seq import plot

        return plot.learning_curve(self, ax=ax, **options)

    def __repr__(self) -> str:
        """Return the table as text."""
        width = max(len(name) for name, _ in self.table())
        return "\n".join(["History", *(f"  {name:<{width}}  {value}" for name, value in self.table())])

    def _repr_html_(self) -> str:
        cells = [(html.escape(n), html.escape(v)) for n, v in self.table()]
        rows = "".join(f"<tr><th style='text-align:left'>{n}</th><td>{v}</td></tr>" for n, v in cells)
        return f"<table>{rows}</table>"


def versions() -> dict[str, Any]:
    """Return the versions that repeatable figures depend on: Python, torch, this package, and the number of threads."""
    try:
        own = version("hbll_seq")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hbll_seq": own,
        "threads": torch.get_num_threads(),
    }


def _plain(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(history: dict[str, list[Any]]) -> dict[str, list[Any]]:
    def back(v: Any) -> Any:
        return [back(w) for w in v] if isinstance(v, list) else (math.nan if v is None else v)

    return {name: back(values) for name, values in history.items()}
