"""What the processes of `test_wraps` do: meshes, wrappers of torch's, layers that know nothing of spans, and groups."""

import warnings
from typing import Any

import spread_runs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import hbll_seq as hs
from hbll_seq import distributed as hd


class Deep(nn.Module):
    """Two layers of this package and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rnn = hs.nn.GRU(4, 6, 2, batch_first=True, dtype=torch.float64, execution="sequential")
        self.head = nn.Linear(6, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Normed(spread_runs.Tagger):
    """A module with running means."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x.transpose(1, 2)).transpose(1, 2))


def by_mesh(group: Any, data: int, time: int) -> float:
    """Return the largest difference of a run's weights in a `DeviceMesh` from those of one process."""
    mesh = init_device_mesh("cpu", (data, time), mesh_dim_names=("data", "time"))
    alone, _ = spread_runs.run("steps", steps=3)
    spread, _ = spread_runs.run("steps", steps=3, parallel=mesh)
    mesh.get_group("time")  # still there
    return max(float((spread[name] - value).abs().max()) for name, value in alone.items())


def fully_sharded(group: Any, steps: int) -> float:
    """Return the largest difference of weights after two updates under FSDP2, with time steps over the same ranks."""
    x = torch.randn(3, steps, 4, dtype=torch.float64)
    nets = Deep(), Deep()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("time",))
    fully_shard(nets[1].rnn, mesh=mesh)
    fully_shard(nets[1], mesh=mesh)
    for i, net in enumerate(nets):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            if i:
                with hd.time_sharded(mesh, steps=steps) as time:
                    loss = time.mean(net(time.take(x)).square())
            else:
                loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
    pairs = zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    return max(float((p - q.full_tensor()).detach().abs().max()) for p, q in pairs)


def running(group: Any) -> tuple[list[float], int]:
    """Return the running means after a run on shares of the batch, and how many process groups are left of it."""
    made = len(dist.distributed_c10d._world.pg_map)
    model, (x, y) = Normed(), spread_runs.series()
    hs.fit(model, x, y, rule="bptt", steps=3, batch_size=8, loss="cross_entropy", progress=False, parallel={"data": 2})
    return model.norm.running_mean.tolist(), len(dist.distributed_c10d._world.pg_map) - made


def plain(group: Any) -> list[str]:
    """Return the warnings of PyTorch's layer and of its converted form."""
    net = nn.Sequential(nn.GRU(4, 6, batch_first=True))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            with hd.time_sharded(group, steps=8) as time:
                net(time.take(torch.zeros(1, 8, 4)))
            net = hs.convert(net)
        nn.GRU(4, 6)(torch.zeros(8, 4))
    return [str(one.message) for one in found if "time_sharded" in str(one.message)]


def too_short(group: Any) -> tuple[str, bool]:
    """Return the error of a run of which no batch has a time step a rank, and whether the weights stayed."""
    model, (x, y) = spread_runs.Tagger(), spread_runs.series()
    before = [p.detach().clone() for p in model.parameters()]
    try:
        hs.fit(model, x[:, :1], y[:, :1], steps=2, loss="cross_entropy", progress=False, parallel={"time": 2})
        what = "nothing"
    except hs.InputError as error:
        what = str(error)
    return what, all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def validated(group: Any, name: str, data: int, time: int) -> tuple[float, list[dict[str, list[float]]]]:
    """Return the largest difference of a run that stops early from one process, and its figures of validation."""
    options: dict[str, Any] = dict(steps=12, validate_every=2, validation=0.4, batch_size=2)
    if name == "next":
        options |= {"window": 16}
    runs = []
    for parallel in (None, {"data": data, "time": time}):
        stop = hs.callbacks.EarlyStopping(patience=2)
        weights, run = spread_runs.run(name, **options, parallel=parallel, callbacks=[stop])
        runs.append((weights, {k: v for k, v in run.history.items() if k.startswith("val_")}))
    off = max(float((runs[1][0][k] - v).abs().max()) for k, v in runs[0][0].items())
    return off, [one for _, one in runs]
