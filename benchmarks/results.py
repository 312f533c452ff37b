"""Results on record: one line of JSON a run, under `benchmarks/results/`; `python -m benchmarks.results` lists them.

    append(dict(benchmark="words", task="S5", rule="hbll", seed=100, options=dict(steps=1600, lr=4e-3),
                figures=dict(accuracy=1.0, seconds=35.2, ms=12.1, chain_gap=2e-7),
                curve=[dict(step=200, seconds=4.1, accuracy=0.2), ...]))

`append` adds the machine, its threads, the commit, the versions and the day, and writes `results/<benchmark>.jsonl` at
once, so that a stop loses nothing. A file of its own for every benchmark lets several people add at the same time.
`benchmarks.report` makes the page from these files.

Fields of a record that the caller gives:

* benchmark: name of the file and of the section of the page. task: the row. rule: the side ("hbll", "bptt", "nn.GRU").
* seed: of the run. Seeds from 100 up are those that no choice was made on.
* options: all that decides the result beside the seed: cell, width, updates, rates, lengths, options of the rule.
* figures: names to numbers, on data that training did not see, by the deployed chain. Shares are 0 to 1, losses nats.
  By convention `seconds` is CPU or wall time inside updates, `ms` the median time of an update, and `chain_gap` the
  difference between the loss that the rule reports of a batch and the plain chain's of the same batch.
* curve (optional): held-out figures on the way, with `step` and `seconds`; the page reads equal time off it.
"""

import datetime
import json
import math
import pathlib
import platform
import re
import subprocess
from collections import Counter
from typing import Any

import torch

FOLDER = pathlib.Path(__file__).parent / "results"
GIVEN = {"benchmark": str, "task": str, "rule": str, "seed": int, "options": dict, "figures": dict}
ADDED = ("machine", "threads", "commit", "day")


def machine() -> dict[str, str]:
    """The processor, its vectors and the versions that decide a time."""
    file = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*)$", file.read_text(), re.M) if file.exists() else None
    return {
        "cpu": found.group(1) if found else platform.processor() or platform.machine(),
        "vectors": {"AVX512": "AVX-512"}.get(capability := torch.backends.cpu.get_cpu_capability(), capability),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of the working tree, with "+" where files under version control differ from it; "" without git."""
    command = ["git", "-C", str(FOLDER.parent), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.strip()


def checked(record: dict[str, Any]) -> dict[str, Any]:
    """The record, if the page can read it; a ValueError otherwise."""
    for name, kind in GIVEN.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{name}: got {record.get(name)!r}, expected {kind.__name__}")
    if not re.fullmatch(r"[\w-]+", record["benchmark"]):
        raise ValueError(f"benchmark: got {record['benchmark']!r}, expected the stem of a file")
    if unknown := set(record) - set(GIVEN) - set(ADDED) - {"curve"}:
        raise ValueError(f"unknown fields {sorted(unknown)}; expected {', '.join(GIVEN)}, curve")
    for name, value in record["figures"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"figures: got {name}={value!r}, expected a finite number")
    return record


def append(record: dict[str, Any]) -> dict[str, Any]:
    """Add machine, threads, commit and day to a record, write it, and return it."""
    checked(record)
    whole = {
        **record, "machine": machine(), "threads": torch.get_num_threads(), "commit": commit(),
        "day": datetime.date.today().isoformat(),
    }  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{record['benchmark']}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
    return whole


def read(benchmark: str | None = None, **fields: Any) -> list[dict[str, Any]]:
    """Records of one benchmark, or of all, whose fields have these values: `read("words", task="S5", seed=100)`."""
    files = sorted(FOLDER.glob("*.jsonl")) if benchmark is None else [FOLDER / f"{benchmark}.jsonl"]
    lines = [line for file in files if file.exists() for line in file.read_text("utf-8").splitlines() if line.strip()]
    records = [checked(json.loads(line)) for line in lines]
    return [one for one in records if all(one[name] == value for name, value in fields.items())]


def done(benchmark: str, **fields: Any) -> bool:
    """Whether a record with these fields is there, so that a run that was stopped goes on where it was."""
    return bool(read(benchmark, **fields))


def main() -> None:
    """Print how many records there are of each benchmark, task and rule."""
    counts = Counter((one["benchmark"], one["task"], one["rule"]) for one in read())
    for (benchmark, task, rule), count in sorted(counts.items()):
        print(f"{benchmark}  {task}  {rule}: {count}")


if __name__ == "__main__":
    main()
