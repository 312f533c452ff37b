"""Pictures of `benchmarks.report`: every seed a point, or a line over test lengths; `python -m benchmarks.report`.

A picture carries a stamp of what it shows, so that a test can tell whether it is of today without drawing.
"""

import hashlib
import json
import pathlib
from typing import Any

from PIL import Image

from hbll_seq.plot import COLOURS

MARKERS = "os^Dvx"
Groups = dict[tuple[str, str], list[dict[str, Any]]]


def stamp(groups: Groups, spec: dict[str, Any]) -> str:
    """A digest of the figures of a picture and of its options."""
    shown = [[row, one["seed"], one["figures"]] for row, records in groups.items() for one in records]
    return hashlib.sha256(json.dumps([shown, spec], sort_keys=True).encode()).hexdigest()[:24]


def stamped(file: pathlib.Path) -> str:
    """The stamp of a picture; empty where there is none."""
    if not file.exists():
        return ""
    with Image.open(file) as picture:
        return str(picture.info.get("Description", ""))


def draw(groups: Groups, spec: dict[str, Any], file: pathlib.Path) -> None:
    """Draw one panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(task for task, _ in groups))
    columns = min(len(tasks), 2 if "lengths" in spec else 3)
    rows = -(-len(tasks) // columns)
    most = max(sum(task == other for other, _ in groups) for task in tasks)
    height = 3.0 if "lengths" in spec else 0.7 + 0.3 * most
    figure, axes = plt.subplots(
        rows, columns, figsize=(9, max(height, 1.4) * rows), layout="constrained", squeeze=False
    )
    sides = dict.fromkeys(rule for _, rule in groups)
    bases = list(dict.fromkeys(_base(rule) for rule in sides))  # one colour a rule, whatever its options
    styles = {
        rule: (COLOURS[bases.index(_base(rule)) % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, rule in enumerate(sides)
    }
    panel = _lines if "lengths" in spec else _points
    for ax, task in zip(axes.flat, tasks, strict=False):
        panel(ax, {rule: records for (other, rule), records in groups.items() if other == task}, spec, styles)
        ax.set_title(task, fontsize=9)
    for ax in axes.flat[len(tasks) :]:
        ax.axis("off")
    if panel is _points:
        figure.supxlabel(spec.get("title", spec["figure"]), fontsize=9)
    figure.savefig(file, dpi=110, metadata={"Description": stamp(groups, spec), "Software": None})
    plt.close(figure)


def _base(rule: str) -> str:
    """The rule without the options that tell its rows apart."""
    return rule.split(" (")[0]


def _points(
    ax: Any, rows: dict[str, list[dict[str, Any]]], spec: dict[str, Any], styles: dict[str, tuple[str, str]]
) -> None:
    factor = 100 if spec.get("percent") else 1
    for y, (rule, records) in enumerate(rows.items()):
        values = [factor * one["figures"][spec["figure"]] for one in records]
        colour, marker = styles[rule]
        ax.plot(values, [y] * len(values), marker, color=colour, alpha=0.6, ms=5)
        ax.plot([sum(values) / len(values)], [y], "|", color="black", ms=12)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="x", alpha=0.25)
    ax.tick_params(axis="x", labelsize=8)


def _lines(
    ax: Any, rows: dict[str, list[dict[str, Any]]], spec: dict[str, Any], styles: dict[str, tuple[str, str]]
) -> None:
    factor = 100 if spec.get("percent") else 1
    for rule, records in rows.items():
        colour, marker = styles[rule]
        for number, one in enumerate(records):
            values = [factor * one["figures"][spec["figure"].format(n)] for n in spec["lengths"]]
            ax.plot(
                spec["lengths"], values, f"-{marker}", color=colour, alpha=0.7, ms=4, lw=1,
                label=None if number else rule,
            )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(spec["lengths"], [str(n) for n in spec["lengths"]], fontsize=7, rotation=45)
    ax.set_xlabel("time steps of the test", fontsize=8)
    ax.set_ylabel("accuracy (%)" if spec.get("percent") else spec["figure"].split("_")[0], fontsize=8)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=7)
