"""The picture of `benchmarks.speed --plot`: time and memory over T, each side's latest figures."""

import json
import pathlib
from typing import Any

import hbll_seq as hs

SIDES = ("hbll", "hbll-memory", "bptt", "bptt-checkpoint", "pararnn")  # more lines hide each other


def records(lines: pathlib.Path, *, b: int, d: int, cell: str, threads: int | None) -> list[dict[str, Any]]:
    """What `hbll_seq.plot.scaling` takes: rule, T, seconds, MiB; later runs replace earlier ones."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines.read_text().splitlines():
        run = json.loads(line)
        if (run["B"], run["d"], run.get("cell", "gru")) != (b, d, cell):
            continue
        for rule, figures in run.get("memory", {}).items():
            found.setdefault((rule, run["T"]), {"rule": rule, "T": run["T"]})["MiB"] = figures["mib"]
        if run["threads"] == threads:
            for rule, figures in run.get("result", {}).items():
                found.setdefault((rule, run["T"]), {"rule": rule, "T": run["T"]})["seconds"] = figures["seconds"]
    return [found[key] for key in sorted(found)]


def draw(lines: pathlib.Path, to: str, *, b: int, d: int, cell: str, threads: int) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = records(lines, b=b, d=d, cell=cell, threads=threads)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for what, ax in zip(("seconds", "MiB"), axes, strict=True):
        shown = [row for side in SIDES for row in rows if row["rule"] == side and what in row]
        hs.plot.scaling(shown, what=what, mark=False, ax=ax)
    figure.suptitle(f"One training step, {cell}, B={b}, d={d}, {threads} threads")
    figure.savefig(to, dpi=150)
