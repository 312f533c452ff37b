"""What the processes of `test_files` do: runs of `fit` from mapped files, of which each rank has a copy of its own.

In a rank's copy every time step outside its share is spoilt: a run that read one would stop or go wrong.
"""

import os
from typing import Any

import numpy as np
import spread_runs
import torch
import torch.distributed as dist
from torch import Tensor

import hbll_seq as hs
from hbll_seq.distributed.start import make_ranks


def own(steps: int, ahead: int, batch_size: int, window: int | None, parallel: dict[str, int]) -> np.ndarray:
    """Return which of so many time steps this rank may read."""
    ranks = make_ranks(parallel)
    assert ranks is not None
    length, rule = (steps - ahead) // batch_size, hs.rules.make("hbll")
    wide = window or length
    found = np.zeros(steps, bool)
    for first in range(0, length, wide):
        width = min(wide, length - first)
        rows, begin, stop = ranks.cut(batch_size, width, rule.unit(width, batch_size))
        for row in range(batch_size)[rows]:
            found[row * length + first + begin : row * length + first + stop + ahead] = True
    ranks.close()
    return found


def task(kind: str) -> tuple[Any, Tensor, Tensor | None]:
    if kind == "tokens":
        model = hs.models.SequenceModel(7, 7, task="next", input_kind="symbols", layers=2, hidden=16, seed=1)
        return model, spread_runs.text(1601), None
    x, y = spread_runs.series(1, 1600)
    y = torch.where(torch.arange(1600) // 100 % 2 == 0, y[0], -100)  # in some windows nothing counts for some ranks
    return hs.models.SequenceModel(5, 4, input_kind="features", hidden=16, seed=1), x[0], y


def beside(
    group: Any, folder: str, kind: str, parallel: dict[str, int], batch_size: int, window: int | None
) -> tuple[float, float]:
    """Return the largest difference of weights and losses from those of one process, and this rank's share."""
    arguments: dict[str, Any] = dict(progress=False, lr=1e-3, seed=4, stateful=True, batch_size=batch_size, epochs=2)
    one, x, y = task(kind)
    width = window or (len(x) - int(y is None)) // batch_size
    alone = hs.fit(one, x, y, window=width, **arguments)
    mine = own(len(x), int(y is None), batch_size, window, parallel)
    place, many = dist.get_rank(), dist.get_world_size()
    path = os.path.join(folder, f"{kind}{place}.npy")
    if y is None:
        np.where(mine, x.numpy(), 255).astype("uint8").tofile(path)
        data: tuple[Any, ...] = (hs.datasets.open_span(path, place, many, dtype="uint8", ahead=1),)
    else:
        targets = os.path.join(folder, f"targets{place}.npy")
        np.save(path, np.where(mine[:, None], x.numpy(), np.float32("nan")))
        np.save(targets, np.where(mine, y.numpy(), 99))
        data = (hs.datasets.open_span(path, place, many), hs.datasets.open_span(targets, place, many))
    two = task(kind)[0]
    spread = hs.fit(two, *data, window=window, parallel={**parallel, "timeout": 120}, **arguments)
    off = [float((p - q).abs().max()) for p, q in zip(one.parameters(), two.parameters(), strict=True)]
    off += [abs(a - b) for a, b in zip(alone.history["loss"], spread.history["loss"], strict=True)]
    return max(off), float(mine.mean())


def spoilt(group: Any, folder: str) -> list[str]:
    """Return what is raised on this rank for a value that only rank 1 can read, and without `stateful`."""
    path, found = os.path.join(folder, "spoilt.u8"), []
    if dist.get_rank() == 0:
        values = spread_runs.text(1601).numpy().astype("uint8")
        values[-20] = 255
        values.tofile(path)
    dist.barrier(group)
    span = hs.datasets.open_span(path, dtype="uint8")
    for options in ({"stateful": True, "batch_size": 1}, {}):
        try:
            hs.fit(task("tokens")[0], span, progress=False, steps=1, parallel={"time": 2, "timeout": 120}, **options)
            found.append("nothing")
        except hs.InputError as error:
            found.append(f"{error.argument}: {error.got}")
    return found
