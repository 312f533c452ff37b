"""The fastest schedule for a model and a shape of batch, measured on this machine and remembered.

`execution="measured"` of the engine. The candidates are whole sequences in order, exact boundaries with all blocks at
once, and sweeps with blocks of several sizes. Each makes a few updates of a copy, in turn, and the shortest median time
wins. A file keeps the result by machine, threads, device, PyTorch, model and shape, so that it is measured once.
Checkpoints keep it for resumed runs. All candidates give the same gradient within the tolerances.
"""

import copy
import json
import os
import pathlib
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.engine import Engine, Schedule
from hbll_seq.engine.engine import shape_name
from hbll_seq.engine.options import EXECUTIONS
from hbll_seq.errors import EngineWarning
from hbll_seq.kernels import machine
from hbll_seq.models.over_time import TimeModel
from hbll_seq.models.recurrent import SequenceModel

if TYPE_CHECKING:
    from hbll_seq.rules.hbll import HBLL

MOST_ROWS, LEAST_ROWS = 1024, 4  # blocks times sequences: no schedule outside was the fastest
WARM, TIMED = 3, 5  # updates of each candidate; the controller needs three to learn the number of sweeps


def candidates(steps: int, batch: int, credit: int) -> list[Schedule]:
    """List the schedules to try.

    They are the sequence in order, and blocks at once in powers of two from 8 that divide `credit` (any, if `credit` is
    T).

    Args:
        steps, batch: T and B.
        credit: time steps of a credit block if messages are discounted, else T.
    """
    sizes = [k for k in (2**i for i in range(3, 40)) if 2 * k <= steps and (credit >= steps or credit % k == 0)]
    fitting = [k for k in sizes if LEAST_ROWS <= -(-steps // k) * batch <= MOST_ROWS] or sizes[-1:]
    some = fitting[:: max(1, len(fitting) // 3)]  # exact boundaries cost about the same with any size: try a few
    found = [Schedule("sequential", credit)]
    return found + [Schedule("exact-forward", k) for k in some] + [Schedule("parallel", k) for k in fitting]


def fastest(sides: list[Schedule], make: Callable[[Schedule], Callable[[], None]]) -> Schedule:
    """Return the candidate with the shortest median update.

    Candidates alternate, so that a slow moment hits all of them.

    Args:
        sides: the candidates.
        make: returns a function that makes one update with a candidate.
    """
    if len(sides) == 1:
        return sides[0]
    steps = [(side, make(side)) for side in sides]
    taken: dict[Schedule, list[float]] = {side: [] for side in sides}
    for i in range(WARM + TIMED):
        for side, step in steps:
            start = time.perf_counter()
            step()
            if i >= WARM:
                taken[side].append(time.perf_counter() - start)
    return min(sides, key=lambda side: statistics.median(taken[side]))


def pin(rule: "HBLL", model: TimeModel, batch: Batch, progress: float) -> None:
    """Fix the engine's schedule for such batches by measurement, if `execution="measured"` and it is not yet known.

    Args:
        rule: the rule about to make an update.
        model: stays as it is; copies are trained.
        batch: a typical batch.
        progress: completed share of the run, for the timed updates.
    """
    engine, (size, steps) = rule.engine, batch.x.shape[:2]
    credit = engine.credit_block(steps, size)
    name = shape_name(steps, size, credit)
    if engine.options.execution != "measured" or name in engine.pinned:
        return
    assert isinstance(model, SequenceModel)  # `HBLL.setup` refuses others
    discount = engine.options.discount
    whole = discount == 1 or (discount == "auto" and not model.targets_in_time)
    device = batch.x.device

    def make(side: Schedule) -> Callable[[], None]:
        own, net = Engine(engine.options), copy.deepcopy(model)
        own.pin(name, side)
        twin = rule.timed_by(own)

        def one() -> None:
            net.zero_grad()
            twin.step(net, batch, progress)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return one

    def measure() -> Schedule:
        with borrowed_generators(device), warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)  # of the copies: a candidate that has to switch loses
            return fastest(candidates(steps, size, steps if whole else credit), make)

    o = engine.options
    options = (o.block_size, o.sweeps, o.feedback, o.pull, o.carry, o.precision, o.capture, o.discount, o.tolerance,
               o.feedback_tolerance, o.most)  # fmt: skip
    engine.pin(name, remember(f"{key(model, name)}; {' '.join(map(str, options))}", measure))


def key(model: SequenceModel, of: str) -> str:
    """Describe in words what the times for batches of shape `of` depend on."""
    device = next(model.parameters()).device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    cells = [f"{type(cell).__name__} {cell.input_size} {cell.hidden_size}" for cell in model.cells]
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    out = model.readout.out_features
    return f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}: " + (
        f"{' + '.join(cells)} -> {out}, {of}"
    )


def _cpu() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, vectors of {machine.target().width}"


def remember(name: str, measure: Callable[[], Schedule]) -> Schedule:
    """Return the earlier result for `name` on this machine, or measure it now."""
    file = cache_file()
    known = _read(file)
    kept = known.get(name)
    if isinstance(kept, list) and len(kept) == 2 and kept[0] in EXECUTIONS and isinstance(kept[1], int) and kept[1] > 0:
        return Schedule(*kept)
    found = measure()
    _write(file, {**_read(file), name: [found.execution, found.block]})
    return found


def cache_file() -> pathlib.Path:
    """Return the path of `schedules.json`, in `HBLL_SEQ_CACHE` or in hbll_seq's folder of the user's cache."""
    own = os.environ.get("HBLL_SEQ_CACHE")
    if own:
        return pathlib.Path(own) / "schedules.json"
    return (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "hbll_seq" / "schedules.json"
    )


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):  # missing, or half written when a machine went off
        return {}
    return known if isinstance(known, dict) else {}


def _write(file: pathlib.Path, known: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(known, indent=1, sort_keys=True))
        part.replace(file)
    except OSError:  # no place to write to: the next run measures again
        return
