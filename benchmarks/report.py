"""The page `docs/benchmarks.md` and its pictures, from the records: `python -m benchmarks.report [--check]`.

The frame of the page is the text `page` under `benchmarks/results/`. Its line `{"sections": ["demo", ...]}` becomes
one section a benchmark, from the hand-written text beside the records `results/<benchmark>.jsonl`, of the same name:
first those that the line names, then the others in the order of the alphabet; `{"behind": true}` lists every row in
which a rival is better than hbll; `{"earlier": true}` includes the text `earlier`, figures that have no records yet.
Records named `...-grid` are those that options were chosen by, and are no results.
In a section two kinds of lines are replaced:

    {"table": {"figure": "loss", "better": "lower", "digits": 3, "tasks": ["S5"], "curve": "loss"}}
    {"picture": {"figure": "loss", "tasks": ["S5"]}}                              every seed as a point
    {"picture": {"figure": "accuracy_{}", "lengths": [64, 512], "percent": true}}      figures over test lengths

A row is a rule, with the options that differ between the records of its task; `"rules": [...]` leaves others out. "at
N s": the figure that `curve` names (else `figure`) at the last evaluation before the time that the fastest rule took
for its whole run: equal time. Agreement is the largest `chain_gap`. Columns without a figure in any row are left out.
`--check` writes nothing and fails where page or pictures are not of today.
"""

import argparse
import json
import pathlib
import re
import statistics
import textwrap
from typing import Any

from benchmarks.report_pictures import draw, stamp, stamped
from benchmarks.results import FOLDER, read

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
Record = dict[str, Any]
Row = tuple[str, str]  # task, and rule with what tells it from the others


def chosen(benchmark: str, spec: dict[str, Any]) -> dict[Row, list[Record]]:
    """Records of a table by row, in the order of the first of each; of two runs that are the same the later counts."""
    first = spec["figure"].format(*spec.get("lengths", [])[:1])
    latest = {
        (one["task"], one["rule"], one["seed"], json.dumps(one["options"], sort_keys=True)): one
        for one in read(benchmark)
        if one["task"] in spec.get("tasks", [one["task"]]) and one["rule"] in spec.get("rules", [one["rule"]])
        if first in one["figures"]
    }
    groups: dict[Row, list[Record]] = {}
    for one in sorted(latest.values(), key=lambda one: _place(one["task"], spec.get("tasks", []))):
        same_task = [other["options"] for other in latest.values() if other["task"] == one["task"]]
        groups.setdefault((one["task"], one["rule"] + _suffix(one["options"], same_task)), []).append(one)
    return groups


def _place(task: str, tasks: list[str]) -> int:
    return tasks.index(task) if task in tasks else 0


def _suffix(options: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """The options whose values differ between the records of a task."""
    told = []
    for name, value in options.items():
        if any(other.get(name, value) != value or name not in other for other in others):
            told.append(str(value) if name == "cell" else f"{name} {value}")
    return f" ({', '.join(told)})" if told else ""


def shown(value: float, spec: dict[str, Any]) -> str:
    digits = spec.get("digits", 1 if spec.get("percent") else 3)
    return f"{100 * value:.{digits}f} %" if spec.get("percent") else f"{value:.{digits}f}"


def mean(records: list[Record], figure: str) -> float:
    return statistics.mean(one["figures"][figure] for one in records)


def spread(records: list[Record], spec: dict[str, Any]) -> str:
    values = [one["figures"][spec["figure"]] for one in records]
    if len(values) == 1:
        return shown(values[0], spec)
    bare = [shown(v, spec).removesuffix(" %") for v in (min(values), max(values))]
    return f"{shown(statistics.mean(values), spec)} ({bare[0]}..{bare[1]})"


def at_time(record: Record, figure: str, seconds: float) -> float | None:
    """The figure at the last evaluation of the run before that time."""
    points = [p[figure] for p in record.get("curve", []) if figure in p and p["seconds"] <= seconds * 1.02]
    return points[-1] if points else None


def table(benchmark: str, spec: dict[str, Any]) -> str:
    groups = chosen(benchmark, spec)
    on_curve = spec.get("curve", spec["figure"])
    told = "" if on_curve == spec["figure"] else f"{spec['curve']} "
    head = ["task", "rule", "seeds", spec.get("title", spec["figure"]), f"{told}at equal time"]
    lines = [[*head, "CPU seconds", "ms an update", "agreement"]]
    for (task, rule), records in groups.items():
        budget = _budget(groups, task)
        values = [at_time(one, on_curve, budget) for one in records] if budget else []
        there = [v for v in values if v is not None]
        equal = (
            f"{shown(statistics.mean(there), spec)} at {budget:.0f} s" if there and len(there) == len(values) else ""
        )
        gaps = [one["figures"]["chain_gap"] for one in records if "chain_gap" in one["figures"]]
        seeds = ", ".join(str(one["seed"]) for one in records)
        figure = spread(records, spec)
        lines.append([
            task, f"`{rule}`", seeds, f"**{figure}**" if rule in _best(groups, task, spec) else figure, equal,
            _median(records, "seconds", 0), "" if spec["figure"] == "ms" else _median(records, "ms", 1),
            f"{max(gaps):.0e}" if gaps else "",
        ])  # fmt: skip
    known = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])]
    rows = [f"| {' | '.join(line[i] for i in known)} |" for line in lines]
    rows.insert(1, "|---" * len(known) + "|")
    return "\n".join([*rows, "", made_by([one for records in groups.values() for one in records])])


def made_by(records: list[Record]) -> str:
    """Machines, versions, threads, days and commits of records, as a paragraph."""

    def told(values: Any) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    machines = told(f"{one['machine']['cpu']} with {one['machine']['vectors']}" for one in records)
    versions, threads = told(one["machine"]["torch"] for one in records), told(one["threads"] for one in records)
    days, commits = told(one["day"] for one in records), told(one["commit"].rstrip("+") for one in records)
    lines = f"Machine: {machines}; torch {versions}; threads: {threads}; {days}; commits: {commits}."
    return textwrap.fill(lines, 100)


def _budget(groups: dict[Row, list[Record]], task: str) -> float:
    """Time of the fastest rule of a task, 0 where none has one."""
    times = [
        statistics.median(one["figures"]["seconds"] for one in records)
        for (other, _), records in groups.items()
        if other == task and all("seconds" in one["figures"] for one in records)
    ]
    return min(times, default=0.0)


def _best(groups: dict[Row, list[Record]], task: str, spec: dict[str, Any]) -> set[str]:
    """The rules of a task with the best mean, as shown; none where there is no other."""
    better = max if spec.get("better", "higher") == "higher" else min
    means = {rule: mean(records, spec["figure"]) for (other, rule), records in groups.items() if other == task}
    best = shown(better(means.values()), spec)
    return {rule for rule, value in means.items() if shown(value, spec) == best} if len(means) > 1 else set()


def _median(records: list[Record], figure: str, digits: int) -> str:
    values = [one["figures"][figure] for one in records if figure in one["figures"]]
    return f"{statistics.median(values):.{digits}f}" if values else ""


def behind(tables: list[tuple[str, dict[str, Any]]]) -> str:
    """One line for every row in which another rule's mean, as shown, is better than that of hbll by its defaults."""
    lines = []
    for benchmark, spec in tables:
        groups = chosen(benchmark, spec)
        sign = 1 if spec.get("better", "higher") == "higher" else -1
        for task in dict.fromkeys(task for task, _ in groups):
            rows = {rule: mean(records, spec["figure"]) for (other, rule), records in groups.items() if other == task}
            ours = {rule: value for rule, value in rows.items() if re.fullmatch(r"hbll( \(.*\))?", rule)}
            if not ours:
                continue
            best_ours = max(ours, key=lambda rule: sign * ours[rule])
            for rule, value in rows.items():
                ahead = sign * value > sign * ours[best_ours] and shown(value, spec) != shown(ours[best_ours], spec)
                if rule not in ours and ahead:
                    title = spec.get("title", spec["figure"])
                    lines.append(
                        f"- {task}, {title}: `{rule}` {shown(value, spec)}, `{best_ours}` {shown(ours[best_ours], spec)}."
                    )
    return "\n".join(lines) if lines else "- In no row on record yet."


def specs(text: str, kind: str) -> list[Any]:
    found = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return [one[kind] for one in found if kind in one]


def section(name: str, pictures: dict[str, tuple[str, dict[str, Any]]]) -> str:
    """The text of a benchmark with its tables and pictures; adds the pictures, by file, to `pictures`."""
    lines = []
    for line in (FOLDER / f"{name}.md").read_text("utf-8").strip().splitlines():
        one = json.loads(line) if line.startswith("{") else {}
        if "table" in one:
            line = table(name, one["table"])
        elif "picture" in one:
            number = sum(file.startswith(f"results_{name}_") for file in pictures) + 1
            file = f"results_{name}_{number}.png"
            pictures[file] = (name, one["picture"])
            line = f"![{one['picture'].get('title', one['picture']['figure'])}](img/{file})"
        lines.append(line)
    return "\n".join(lines)


def page() -> tuple[str, dict[str, tuple[str, dict[str, Any]]]]:
    """The text of the page, and what its pictures show by their files."""
    text = (FOLDER / "page.md").read_text("utf-8")
    [first] = specs(text, "sections")
    stems = {file.stem for file in FOLDER.glob("*.jsonl") if not file.stem.endswith("-grid")}
    names = sorted(stems, key=lambda name: (first.index(name) if name in first else len(first), name))
    if missing := [name for name in names if not (FOLDER / f"{name}.md").exists()]:
        raise FileNotFoundError(
            f"records of {', '.join(missing)}: expected a text beside them, benchmarks/results/NAME.md"
        )
    texts = {name: (FOLDER / f"{name}.md").read_text("utf-8") for name in names}
    tables = [(name, spec) for name, text in texts.items() for spec in specs(text, "table")]
    pictures: dict[str, tuple[str, dict[str, Any]]] = {}
    parts = {
        json.dumps({"sections": first}): "\n\n".join(section(name, pictures) for name in names),
        '{"behind": true}': behind(tables),
        '{"earlier": true}': (FOLDER / "earlier.md").read_text("utf-8").strip(),
    }
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text, pictures


def stale() -> list[str]:
    """The files that `main` would change."""
    text, pictures = page()
    found = [] if PAGE.read_text("utf-8") == text else [PAGE.name]
    images = PAGE.parent / "img"
    return found + [
        file for file, (name, spec) in pictures.items() if stamped(images / file) != stamp(chosen(name, spec), spec)
    ]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", action="store_true")
    if p.parse_args().check:
        if files := stale():
            raise SystemExit(f"not of today: {', '.join(files)}; run python -m benchmarks.report")
        return
    text, pictures = page()
    PAGE.write_text(text, "utf-8")
    images = PAGE.parent / "img"
    for old in images.glob("results_*.png"):
        if old.name not in pictures:
            old.unlink()
    for file, (name, spec) in pictures.items():
        groups = chosen(name, spec)
        if stamped(images / file) != stamp(groups, spec):
            draw(groups, spec, images / file)
    print(f"{PAGE.relative_to(ROOT)}, {len(pictures)} pictures")


if __name__ == "__main__":
    main()
