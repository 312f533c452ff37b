"""Tables in markdown from lines of JSON; of several runs the latest line of every job counts."""

from collections.abc import Iterable
from typing import Any

from benchmarks.device.lines import Line


def markdown(lines: list[Line]) -> str:
    """All tables there are lines for."""
    if not lines:
        return "Nothing measured yet."
    real = [one for one in lines if not one["dry"]]
    lines = real or lines  # figures of a dry run mean nothing beside others
    latest = {(one["stage"], one["name"]): one for one in lines if "name" in one}
    parts = [_events(lines)]
    for stage, table in (
        ("correct", _correct),
        ("gpu-speed", _speed),
        ("profile", _profile),
        ("cpu-threads", _threads),
    ):
        mine = [one for one in latest.values() if one["stage"] == stage]
        if mine:
            parts.append("\n".join([f"## {stage}", "", _machine(mine), "", *table(mine)]))
    return "\n\n".join(part for part in parts if part)


def _machine(lines: list[Line]) -> str:
    said = []
    for one in lines:
        text = f"{one['device']}; {one['cpu']}, {one['cores']} cores, {' '.join(one['vectors'])}; torch {one['torch']}"
        text += f", CUDA {one['cuda']}" if one.get("cuda") else ""
        text += f"; commit {one['commit']}; {one['time'][:10]}"
        said.append(text + ("; **dry run: tiny shapes on a CPU, no figure means anything**" if one["dry"] else ""))
    return "  \n".join(dict.fromkeys(said))


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(one).replace("|", "/") for one in cells) + " |"


def _head(*names: str) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _events(lines: list[Line]) -> str:
    """What did not go as planned."""
    found = []
    for one in lines:
        if one.get("event") == "died":
            found.append(f"- {one['stage']}: job {one['job']} died: {one['why']}")
        elif one.get("event") == "skipped":
            found.append(f"- {one['stage']}: skipped: {one['why']}")
        elif one.get("event") == "budget spent":
            found.append(f"- {one['stage']}: budget spent; left out: {_few(one['left_out'])}")
        elif isinstance(one.get("error"), str):
            found.append(f"- {one['stage']}: {one['name']}: {one['error']}")
    return "\n".join(["## What did not run", "", *dict.fromkeys(found)]) if found else ""


def _few(names: list[str], most: int = 6) -> str:
    """A list in a line, shortened."""
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")


def _shape(line: Line) -> str:
    return ", ".join(f"{k}={v}" for k, v in line.get("shape", {}).items())


def _correct(lines: list[Line]) -> list[str]:
    """One row a group, and every check that failed."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for one in lines:
        if "passed" in one or "skipped" in one:
            groups.setdefault((one["group"], one["dtype"]), []).append(one)
    rows = _head("checks", "dtype", "passed", "largest error", "allowed", "where")
    for (group, dtype), checks in groups.items():
        made = [one for one in checks if "passed" in one]
        if not made:
            rows.append(_row([group, dtype, f"skipped: {checks[0]['skipped']}", "", "", ""]))
            continue
        worst = max(
            made, key=lambda one: one["error"] / one["tolerance"] if one["error"] == one["error"] else float("inf")
        )
        passed = f"{sum(one['passed'] for one in made)} of {len(checks)}"
        at = f"{worst.get('cell', '')} {_shape(worst)}, {worst['worst']}"
        rows.append(_row([group, dtype, passed, f"{worst['error']:.1e}", f"{worst['tolerance']:.0e}", at.strip()]))
    failed = [one for one in lines if one.get("passed") is False]
    rows += ["", f"{len(failed)} failed."] if failed else []
    return rows + [
        f"- {one['name']}: {one['worst']} {one['error']:.2e}, at most {one['tolerance']:.0e}" for one in failed
    ]


def _ms(side: dict[str, Any] | None, beside: dict[str, Any] | None = None) -> str:
    """Milliseconds, and how many times as fast as another side."""
    if side is None:
        return ""
    if "seconds" not in side:
        return "-"
    text = f"{1e3 * side['seconds']:.2f}" + ("*" if side["repeats"] < 3 else "")
    return text + (f" ({beside['seconds'] / side['seconds']:.1f}x)" if beside and "seconds" in beside else "")


def _speed(lines: list[Line]) -> list[str]:
    """Milliseconds with the ratio to PyTorch's own layer, then memory, then what the sides said and why some are missing."""
    rows = []
    for cell in dict.fromkeys(one["cell"] for one in lines if "sides" in one):
        mine = [one for one in lines if one.get("cell") == cell and "sides" in one]
        names = list(dict.fromkeys(name for one in mine for name in one["sides"]))
        rows += [
            f"### {cell}: ms a step (times as fast as nn), medians of 5; * fewer than 3; float32 products: {mine[0]['matmul']}",
            "",
        ]
        rows += _head("B", "T", "d", *names, "sweeps", "corrections", "schedule of default")
        for one in mine:
            sides, metrics = one["sides"], (one["sides"].get("parallel") or {}).get("metrics", {})
            cells = [_ms(sides.get(name), None if name == "nn" else sides.get("nn")) for name in names]
            said = (sides.get("default") or {}).get("metrics", {}).get("schedule", "")
            spent = [_number(metrics.get(key)) for key in ("sweeps", "corrections")]
            rows.append(_row([*one["shape"].values(), *cells, *spent, said]))
        rows += ["", f"Peak MiB of a step, {cell}", "", *_head("B", "T", "d", *names)]
        for one in mine:
            peaks = [_number(one["sides"].get(name, {}).get("peak_mib")) for name in names]
            rows.append(_row([*one["shape"].values(), *peaks]))
        rows += ["", *_missing(mine), ""]
    return rows


def _number(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else ""


def _missing(lines: list[Line]) -> list[str]:
    why: dict[tuple[str, str], list[str]] = {}
    for one in lines:
        for name, side in one["sides"].items():
            if "left_out" in side:
                why.setdefault((name, side["left_out"]), []).append("x".join(map(str, one["shape"].values())))
    return [f"- {name}: {reason} ({', '.join(at)})" for (name, reason), at in why.items()]


def _profile(lines: list[Line]) -> list[str]:
    """A paragraph and a table a shape."""
    rows = []
    for one in lines:
        if "top" not in one:
            continue
        launches = ", ".join(f"{v} {k}" for k, v in one["launches"].items()) or "none"
        rows += [
            f"### {one['name']}: {_ms(one['timed'])} ms ({1e3 * one['profiled_seconds']:.2f} profiled), kernels run"
            f" {1e3 * one['busy_seconds']:.2f} ms, gaps {100 * one['gaps']:.0f} %; launches: {launches}", "",
            *_head("kernel", "ms", "calls"),
            *(_row([k["name"], f"{k['ms']:.3f}", k["calls"]]) for k in one["top"]), "",
        ]  # fmt: skip
    return rows


def _threads(lines: list[Line]) -> list[str]:
    """A table a cell: threads across, sides below one another."""
    rows = []
    for cell in dict.fromkeys(one["cell"] for one in lines if "sides" in one):
        mine = [one for one in lines if one.get("cell") == cell and "sides" in one]
        threads = sorted({one["threads"] for one in mine})
        rows += [f"### {cell}: ms a step (times as fast as nn) by threads", ""]
        rows += _head("B, T, d", "side", *map(str, threads))
        shapes = dict.fromkeys(tuple(one["shape"].values()) for one in mine)
        for shape in shapes:
            by = {one["threads"]: one["sides"] for one in mine if tuple(one["shape"].values()) == shape}
            for name in next(iter(by.values())):
                cells = [
                    _ms(by.get(k, {}).get(name), None if name == "nn" else by.get(k, {}).get("nn")) for k in threads
                ]
                rows.append(_row([", ".join(map(str, shape)), name, *cells]))
        rows += ["", *_missing(mine), ""]
    return rows + sorted({f"- left out: {one['skipped']}" for one in lines if "skipped" in one})
