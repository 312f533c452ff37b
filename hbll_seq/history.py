"""What a run recorded: figures per step, why it stopped, and how to look at it."""

import json
import math
import pathlib
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class History:
    """Result of `fit`.

    Attributes:
        model: the trained model (the object that was given to `fit`).
        history: lists by name, as Keras has them. One number a training step: `step` (from 1), `loss` (nats, or squared
            units), `lr`, `grad_norm` (before clipping), `seconds` (since the start of training), and what the rule
            reports: for `hbll` `sweeps`, `corrections`, `inconsistency`, `feedback_residual`, `fallbacks`,
            `tolerance`, `pull`, `carry_weight`, `depth`. One a validation: `val_step`, `val_loss`, and for
            classification `val_accuracy`. On request: `gradient_cosine` with `cosine_step`. Every `record_every`
            steps: `block_loss`, the list
            of each block's mean loss, with `block_step`; `deployed_gap` with `gap_step` where the rule measures it.
        stopped_reason: "finished", "early_stopping", "callback", "interrupted" or "diverged".
        config: what `fit` was called with, as JSON-able values.
        versions: of Python, torch and this package, and the number of threads.
    """

    def __init__(self, model: nn.Module | None, config: dict[str, Any], versions: dict[str, Any]) -> None:
        self.model, self.config, self.versions = model, config, versions
        self.history: dict[str, list[Any]] = {}
        self.stopped_reason = "finished"

    def add(self, **values: Any) -> None:
        """Append one value to each named list."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    def to_json(self, path: str | pathlib.Path | None = None) -> str:
        """Everything but the model as JSON; also written to `path` where one is given."""
        text = json.dumps(
            {
                "history": _plain(self.history),
                "stopped_reason": self.stopped_reason,
                "config": self.config,
                "versions": self.versions,
            }
        )
        if path is not None:
            pathlib.Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, text: str, model: nn.Module | None = None) -> "History":
        """Rebuild from `to_json`."""
        data = json.loads(text)
        result = cls(model, data["config"], data["versions"])
        result.history, result.stopped_reason = _floats(data["history"]), data["stopped_reason"]
        return result

    def table(self) -> list[tuple[str, str]]:
        """The figures one looks at first, as (name, value)."""
        h = self.history
        rows = [("rule", str(self.config.get("rule"))), ("steps", str(len(h.get("step", []))))]
        if h.get("loss"):
            rows.append(("training loss", f"{sum(h['loss'][-20:]) / len(h['loss'][-20:]):.4f}"))
        if h.get("val_loss"):
            best = min(range(len(h["val_loss"])), key=lambda i: h["val_loss"][i])
            rows.append(
                (
                    "held-out loss",
                    f"{h['val_loss'][-1]:.4f} (best {h['val_loss'][best]:.4f} at step {h['val_step'][best]})",
                )
            )
        if h.get("val_accuracy"):
            rows.append(("held-out accuracy", f"{100 * h['val_accuracy'][-1]:.1f} %"))
        if h.get("seconds"):
            rows.append(("seconds", f"{h['seconds'][-1]:.1f}"))
        if h.get("depth"):
            rows.append(("sequential depth", f"{sorted(h['depth'])[len(h['depth']) // 2]:.0f}"))
        if h.get("gradient_cosine"):
            rows.append(("gradient cosine to BPTT", f"least {min(h['gradient_cosine']):.4f}"))
        return [*rows, ("stopped", self.stopped_reason)]

    def plot(self, ax: "Axes | None" = None, **options: Any) -> "Axes":
        """Learning curves; see `hbll_seq.plot.learning_curve`."""
        from hbll_seq import plot

        return plot.learning_curve(self, ax=ax, **options)

    def __repr__(self) -> str:
        """The table as text."""
        width = max(len(name) for name, _ in self.table())
        return "\n".join(["History", *(f"  {name:<{width}}  {value}" for name, value in self.table())])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th style='text-align:left'>{n}</th><td>{v}</td></tr>" for n, v in self.table())
        return f"<table>{rows}</table>"


def _plain(value: Any) -> Any:
    """JSON has no NaN: None instead."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _floats(history: dict[str, list[Any]]) -> dict[str, list[Any]]:
    def back(v: Any) -> Any:
        return [back(w) for w in v] if isinstance(v, list) else (math.nan if v is None else v)

    return {name: back(values) for name, values in history.items()}
