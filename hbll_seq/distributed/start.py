"""How the processes of a run find each other: the process group under torchrun, and the grid of `parallel=`."""

import atexit
import datetime
import os
from typing import Any

import torch
import torch.distributed as dist

from hbll_seq.data.scalars import integer, positive
from hbll_seq.distributed.group import Group, as_group
from hbll_seq.distributed.ranks import Ranks
from hbll_seq.distributed.shards import initialised
from hbll_seq.errors import InputError

AXES = ("data", "time")
TIMEOUT = 600.0  # seconds a rank waits for another one
EXPECTED = '{"data": ranks, "time": ranks}, or a DeviceMesh with axes of these names'


def make_ranks(parallel: Any) -> Ranks | None:
    """Return the grid for `fit(..., parallel=...)`; None for None.

    Under torchrun the process group is made here if it was not made before: NCCL if every process has a GPU, else gloo.

    Raises:
        InputError: another form, no torchrun, or another number of processes.
    """
    if parallel is None:
        return None
    mesh = hasattr(parallel, "mesh_dim_names")
    if not mesh and not isinstance(parallel, dict):
        raise InputError("parallel", type(parallel).__name__, EXPECTED)
    names = tuple(parallel.mesh_dim_names or ()) if mesh else tuple(parallel)
    allowed = AXES if mesh else (*AXES, "timeout", "micro_batches")
    if not names or any(one not in allowed for one in names):
        raise InputError("parallel", f"the names {names}", EXPECTED)
    if not mesh:
        return _grid(parallel)
    own = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    alone = Group(own)
    groups = {name: Group(as_group(parallel[name])) for name in names}
    world = Group() if parallel.size() == dist.get_world_size() else None
    if world is None:
        raise InputError("parallel", f"a mesh of {parallel.size()} processes", f"all {dist.get_world_size()}")
    return Ranks(world, groups.get("data", alone), groups.get("time", alone), [own])


def initialise(timeout: float = TIMEOUT) -> None:
    """Make the process group of a process under torchrun: NCCL if every process has a GPU, else gloo.

    `fit(..., parallel=...)` does it by itself.

    Args:
        timeout: seconds that a process waits for another.

    Raises:
        InputError: no torchrun.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        came = "one process, started without torchrun"
        raise InputError("parallel", came, "torchrun --nproc-per-node 2 your_script.py")
    _start(datetime.timedelta(seconds=positive("timeout", timeout)))
    atexit.register(_end)


def _end() -> None:
    """Destroy the process group that `initialise` made; a later run of the same process may use it until then."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _start(limit: datetime.timedelta) -> None:
    """Make the process group of a process under torchrun.

    A restarted process must not read the addresses that processes of its earlier life left in torchrun's store: each
    life has a part of the store of its own.
    """
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"  # counts and losses are sent from the CPU
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # NCCL wants a GPU for each process
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend, timeout=limit)
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"life {life}", dist.TCPStore(host, port, is_master=False, timeout=limit))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)


def _grid(given: dict[str, Any]) -> Ranks:
    data, time = (integer(f"parallel[{name!r}]", given.get(name, 1)) for name in AXES)
    limit = datetime.timedelta(seconds=positive("parallel['timeout']", given.get("timeout", TIMEOUT)))
    parts = given.get("micro_batches")
    parts = None if parts is None else integer("parallel['micro_batches']", parts)
    if not initialised():
        initialise(limit.total_seconds())
    count = dist.get_world_size()
    if data * time != count:
        raise InputError("parallel", f"{data} x {time} ranks", f"a product of {count}, the number of processes")
    rank = dist.get_rank()
    handles: dict[str, Any] = {}
    grid = torch.arange(count).view(data, time)
    for name, members in (("data", grid.t()), ("time", grid), ("world", grid.view(1, -1))):
        for some in members.tolist():  # every process makes every group, in the same order
            made = dist.new_group(some, timeout=limit)
            if rank in some:
                handles[name] = made
    world = Group(handles["world"])
    # a rank that closed its groups while another still connects would end that one with an error, and then wait for it
    world.sum(torch.zeros(1))
    return Ranks(world, Group(handles["data"]), Group(handles["time"]), list(handles.values()), parts)
