"""The fastest block size for a model and a shape of batch, measured on this machine and remembered.

`block_size="measured"` of the rule `hbll`. The sizes tried are powers of two. Each makes a few training steps on a
copy, in turn, and the one whose median step is shortest is taken. What was found is kept in a file, by machine,
threads, device, PyTorch, model and shape, so that it is measured once, and in checkpoints, for resumed runs.

It is not the default: block size is part of what is learned (where the discount acts), and with it two machines, or a
quiet and a busy hour, can end at different weights from one seed.
"""

import copy
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from hbll_seq.batch import Batch
from hbll_seq.kernels import machine
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.rules.base import Rule

MOST_ROWS, LEAST_ROWS = 1024, 4  # blocks times sequences: outside, no shape we measured is fastest
WARM, TIMED = 3, 5  # steps of each size; three until the controller knows how many sweeps it takes


def candidates(steps: int, batch: int) -> list[int]:
    """Powers of two from 8 that leave at least two blocks, and 4 to 1024 rows where that can be had."""
    sizes = [k for k in (2**i for i in range(3, 40)) if 2 * k <= steps]
    fitting = [k for k in sizes if LEAST_ROWS <= -(-steps // k) * batch <= MOST_ROWS]
    return fitting or sizes[-1:] or [steps]


def fastest(sizes: list[int], make: Callable[[int], Callable[[], None]]) -> int:
    """The size whose step has the shortest median time; the sides alternate, so that a slow moment hits all of them.

    Args:
        sizes: to choose from.
        make: for a size, what makes one step.
    """
    if len(sizes) == 1:
        return sizes[0]
    sides = [(k, make(k)) for k in sizes]
    taken: dict[int, list[float]] = {k: [] for k in sizes}
    for i in range(WARM + TIMED):
        for k, step in sides:
            start = time.perf_counter()
            step()
            if i >= WARM:
                taken[k].append(time.perf_counter() - start)
    return min(sizes, key=lambda k: statistics.median(taken[k]))


def shape(batch: Batch) -> str:
    """Steps, up to the next power of two, and sequences: what differs a little shares a figure."""
    size, steps = batch.x.shape[:2]
    return f"{1 << (steps - 1).bit_length()} steps x {size}"


def measured(
    model: SequenceModel, batch: Batch, options: tuple[Any, ...], twin: Callable[[int], Rule[SequenceModel]]
) -> int:
    """The fastest block size for such batches.

    Args:
        model: left alone; copies are trained on.
        batch: a typical one.
        options: of the rule, as far as they change what a step costs.
        twin: for a block size, a rule that may be stepped without harm to the one that asks.
    """
    size, steps = batch.x.shape[:2]
    device = batch.x.device

    def make(block: int) -> Callable[[], None]:
        rule, net = twin(block), copy.deepcopy(model)

        def one() -> None:
            net.zero_grad()
            rule.step(net, batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return one

    def measure() -> int:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout draws
            return fastest(candidates(steps, size), make)

    return remember(f"{key(model, shape(batch))}; {' '.join(map(str, options))}", measure)


def key(model: SequenceModel, of: str) -> str:
    """What the figures for batches of shape `of` depend on, in words."""
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


def remember(name: str, measure: Callable[[], int]) -> int:
    """What was measured under `name` before, on this machine, or now."""
    file = cache_file()
    known = _read(file)
    if isinstance(known.get(name), int):
        return int(known[name])
    found = measure()
    _write(file, {**_read(file), name: found})
    return found


def cache_file() -> pathlib.Path:
    """`blocks.json` in `HBLL_SEQ_CACHE`, or in hbll_seq's folder of the user's cache."""
    own = os.environ.get("HBLL_SEQ_CACHE")
    if own:
        return pathlib.Path(own) / "blocks.json"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "hbll_seq" / "blocks.json"


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):  # not there, or half written by a machine that went off
        return {}
    return known if isinstance(known, dict) else {}


def _write(file: pathlib.Path, known: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(known, indent=1, sort_keys=True))
        part.replace(file)
    except OSError:  # no place to write to: it is measured again next time, and nothing else is lost
        return
