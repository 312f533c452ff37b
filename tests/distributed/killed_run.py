"""A run under torchrun of which one rank is killed at some moment; run by `test_faults`.

torchrun ... killed_run.py FOLDER SECONDS|update: rank 1 kills itself in its first life, after so many seconds of
training, or in the middle of its seventh update.
"""

import os
import signal
import sys
import threading
from typing import Any

import spread_runs
import torch
import torch.distributed as dist
from torch import Tensor, nn

UPDATE, STEPS = 7, 40


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Late(nn.Module):
    """The model, on a rank that dies in an update."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls > UPDATE:
            die()
        found: Tensor = self.inner(x)
        return found


def main(folder: str, moment: str) -> None:
    torch.set_num_threads(1)
    model, data, _ = spread_runs.task("module")
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    whole: Any = Late(model)
    if not (first_life and os.environ["RANK"] == "1" and moment != "never"):
        whole.calls = -(10**9)
    elif moment != "update":
        whole.calls = -(10**9)
        threading.Timer(float(moment), die).start()
    train(folder, whole, data)
    if os.environ["RANK"] == "0":
        torch.save([p.detach() for p in model.parameters()], os.path.join(folder, "weights.pt"))
        torch.save(os.environ["TORCHELASTIC_RESTART_COUNT"], os.path.join(folder, "lives.pt"))


def train(folder: str, model: nn.Module, data: Any) -> None:
    import hbll_seq as hs

    hs.fit(
        model, *data, rule="hbll", progress=False, steps=STEPS, seed=4, batch_size=8,
        loss="cross_entropy", checkpoint=os.path.join(folder, "run.ckpt"), checkpoint_every=2, resume=True,
        parallel={"data": dist.get_world_size() if dist.is_initialized() else int(os.environ["WORLD_SIZE"]),
                  "timeout": 120},
    )  # fmt: skip


def whole(group: Any, folder: str) -> list[Tensor]:
    """Make the same run without a torchrun and a death; return the weights."""
    model, data, _ = spread_runs.task("module")
    late = Late(model)
    late.calls = -(10**9)
    train(folder, late, data)
    return [p.detach() for p in model.parameters()]


if __name__ == "__main__":
    main(*sys.argv[1:])
