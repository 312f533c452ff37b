"""The growth of time and memory with the length of the sequences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hbll_seq.errors import InputError
from hbll_seq.plot.style import COLOURS, axes, fit_letters, inches, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {"seconds": "time a training step (s)", "MiB": "memory (MiB)"}
Curve = list[tuple[float, float]]


def scaling(
    records: Iterable[Mapping[str, Any]], *, what: str = "both", mark: bool = True, ax: Axes | None = None
) -> Axes:
    """Plot seconds (solid, left axis) and MiB (dashed, right axis) over T, log-log, a colour per rule; mark crossings.

    Args:
        records: one mapping per measurement, with `rule`, `T`, `seconds`, `MiB`; a missing or NaN figure is left out
            (out of memory). Rows with the same rule and T are averaged (geometric mean).
        what: "both", "seconds" or "MiB".
        mark: mark the lengths at which two rules cross.
        ax: axes to draw on; "both" adds a second y axis to it.

    Raises:
        InputError: no records, a missing column, an unknown `what`.
    """
    rows = list(records)
    if what not in ("both", *COLUMNS):
        raise InputError("what", repr(what), f"one of {('both', *COLUMNS)}")
    if not rows or any(name not in r for r in rows for name in ("rule", "T")):
        raise InputError("records", f"{len(rows)} rows", "at least one, each with rule, T, seconds, MiB")
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax = axes(ax, (6.4, 4.2))
    columns = list(COLUMNS) if what == "both" else [what]
    rules = list(dict.fromkeys(str(r["rule"]) for r in rows))
    for place, column in enumerate(columns):
        target = ax if place == 0 else ax.twinx()
        curves = {rule: _curve(rows, rule, column) for rule in rules}
        for (rule, curve), colour in zip(curves.items(), itertools.cycle(COLOURS)):
            label = rule if what != "both" else f"{rule}: {'time' if column == 'seconds' else 'memory'}"
            ls, marker = ("-", "o") if column == "seconds" else ("--", "s")
            ts, values = [t for t, _ in curve], [v for _, v in curve]
            target.plot(ts, values, color=colour, lw=1.8, ms=4, label=label, ls=ls, marker=marker)
        for one, other in itertools.combinations(rules, 2) if mark else ():
            for t, v in crossings(curves[one], curves[other]):
                target.plot([t], [v], marker="o", ms=11, mfc="none", mec="black", ls="none")
                target.annotate(
                    f"T ≈ {t:.2g}" if t < 100 else f"T ≈ {round(t, 1 - math.floor(math.log10(t))):.0f}",
                    (t, v),
                    xytext=(9, -13) if place else (-8, 9),
                    textcoords="offset points",
                    ha="left" if place else "right",
                    fontsize=points(inches(ax)[0], 9),
                    bbox=dict(fc="white", ec="none", alpha=0.75, pad=0.5),
                )
        target.set_xscale("log", base=2)
        target.set_yscale("log")
        target.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        decades = math.log10(target.get_ylim()[1] / target.get_ylim()[0])
        target.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        target.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if decades < 2 else NullFormatter())
        target.set_ylabel(COLUMNS[column])
        fit_letters(target)
    ax.set_xlabel("length of the sequences T (steps)")
    ax.grid(alpha=0.25)
    lines = [line for a in ax.figure.axes for line in a.lines if a.bbox.bounds == ax.bbox.bounds]
    lines = [line for line in lines if not str(line.get_label()).startswith("_")]
    above: dict[str, Any] = dict(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2) if what == "both" else {}
    ax.legend(lines, [str(line.get_label()) for line in lines], frameon=False, **above)
    fit_letters(ax)
    return ax


def crossings(one: Curve, other: Curve) -> Curve:
    """Return the points at which two curves `(T, value)` cross, interpolated log-log between their common T."""
    a, b = dict(one), dict(other)
    common = sorted(set(a) & set(b))
    found = []
    for left, right in itertools.pairwise(common):
        p, q = math.log(a[left] / b[left]), math.log(a[right] / b[right])
        if p * q < 0:
            f = p / (p - q)
            t = left ** (1 - f) * right**f
            found.append((t, a[left] ** (1 - f) * a[right] ** f))
    return found


def _curve(rows: list[Mapping[str, Any]], rule: str, column: str) -> Curve:
    values: dict[float, list[float]] = {}
    for r in rows:
        v = r.get(column)
        if str(r["rule"]) == rule and v is not None and float(v) > 0:
            values.setdefault(float(r["T"]), []).append(math.log(float(v)))
    return [(t, math.exp(sum(v) / len(v))) for t, v in sorted(values.items())]
