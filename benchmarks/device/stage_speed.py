"""Stage `gpu-speed`: one training step of every side, medians of 5, alternating, and its peak memory."""

from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.device import dry, plain, sides
from benchmarks.device.jobs import Clock, Job
from benchmarks.device.timing import Patience, alternate
from benchmarks.rivals import data

OURS = ("one call", "parallel", "parallel bf16", "default")
STEPWISE = 512  # units from which a GRU is rolled step by step on a GPU, so that graphs have something to save
PATIENCE = 4.0  # seconds a step


class Row(NamedTuple):
    """A row of the table."""

    cell: str
    b: int
    t: int
    d: int
    loop: bool = False  # with a compiled loop: compiling takes long


# The most telling first: the stage may be cut anywhere.
ROWS = [
    Row("gru", 1, 4096, 256), Row("gru", 8, 4096, 256), Row("gru", 1, 16384, 128), Row("gru", 64, 1024, 256),
    Row("lstm", 1, 4096, 256), Row("gru", 1, 65536, 64), Row("gru", 1, 4096, 1024), Row("lstm", 8, 4096, 256),
    Row("gru", 1, 1024, 64), Row("gru", 8, 1024, 512), Row("mingru", 1, 16384, 256), Row("own", 1, 4096, 128),
    Row("gru", 1, 1024, 256, loop=True), Row("gru", 32, 1024, 128), Row("lstm", 1, 16384, 128),
    Row("gru", 1, 256, 64), Row("gru", 64, 256, 256), Row("gru", 8, 16384, 128), Row("gru", 1, 4096, 64),
    Row("gru", 1, 4096, 512), Row("lstm", 64, 1024, 256), Row("lstm", 1, 4096, 1024), Row("gru", 64, 4096, 64),
    Row("gru", 8, 65536, 64), Row("gru", 1, 65536, 256), Row("mingru", 8, 4096, 1024), Row("own", 8, 1024, 256),
    Row("gru", 64, 256, 1024), Row("gru", 8, 256, 64), Row("gru", 8, 4096, 1024), Row("lstm", 1, 65536, 64),
    Row("gru", 8, 1024, 256, loop=True), Row("gru", 64, 4096, 512), Row("gru", 64, 16384, 128), Row("gru", 1, 65536, 1024),
]  # fmt: skip
DRY_ROWS = [Row("gru", 1, 16, 4, loop=True), Row("lstm", 2, 16, 4), Row("mingru", 1, 16, 4), Row("own", 1, 16, 4)]


def names(row: Row, device: torch.device) -> list[str]:
    """The sides of a row; what is not installed among them."""
    if row.cell == "mingru":
        found = ["minGRU scan", "parallel", "parallel graphs"]
    elif row.cell == "own":
        found = ["nn", "parallel", "parallel graphs", "default"]
    else:
        found = ["nn", "nn bf16", *OURS]
        if row.cell == "gru":
            found += ["minGRU scan", "ParaGRU"]
            found += ["compiled loop"] if row.loop else []
            found += ["parallel graphs"] if row.d > STEPWISE else []
    if dry.no_graphs(device):
        found = [one for one in found if "graphs" not in one]
    return found


def jobs(device: torch.device, is_dry: bool) -> list[Job]:
    """One job a row."""
    patience = Patience(1e9 if is_dry else PATIENCE)
    rows = DRY_ROWS if is_dry else ROWS
    return [Job(title(*row[:4]), partial(measure, device, is_dry, row, patience)) for row in rows]


def title(cell: str, b: int, t: int, d: int) -> str:
    """Of a row or job."""
    return f"{cell} B={b} T={t} d={d}"


def measure(device: torch.device, is_dry: bool, row: Row, patience: Patience, clock: Clock) -> dict[str, Any]:
    """All sides of one row."""
    cell, b, t, d = row[:4]
    why: dict[str, dict[str, Any]] = {}
    builders = {}
    batch = data(b, t).to(device)
    for name in names(row, device):
        expected = patience.expect(name, cell, b, t, d)
        if not plain.available(name):
            why[name] = {"left_out": "not installed"}
        elif expected > patience.seconds:
            why[name] = {"left_out": f"a step would take about {expected:.0f} s"}
        else:
            dtype = torch.float64 if is_dry and "graphs" in name else torch.float32  # see `checks_rolls`
            builders[name] = partial(sides.make, name, batch, d, cell, dtype)
    with dry.recording(device):
        timed = alternate(builders, device, clock, repeats=1 if is_dry else 5, patience=patience.seconds)
    broken = timed.pop("broken", None)
    found = {name: one for name in names(row, device) if (one := timed.get(name, why.get(name))) is not None}
    for name, one in found.items():
        one["dtype"] = sides.dtype_of(name)
        if "seconds" in one:
            patience.learn(name, cell, b, t, d, one["seconds"])
    shape = {"B": b, "T": t, "d": d}
    line = {"cell": cell, "shape": shape, "dtype": "float32", "sides": found}
    return line | {"broken": broken is not None}
