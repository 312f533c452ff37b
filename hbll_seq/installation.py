"""Facts about this installation: versions, device, threads, and the kernels in use."""

import importlib.metadata
import os
import platform
from typing import NamedTuple

import torch

from hbll_seq.kernels import machine, scan


class About(NamedTuple):
    """The result of `about`. Printing it gives a table.

    Attributes:
        versions: versions of hbll_seq, Python and the packages that compute.
        device: the device that `device="auto"` trains on.
        threads: CPU threads torch may use.
        rolls: the implementation of block rolls on that device, by cell.
        scans: kernels for the scans over boundaries, "auto"'s choice first.
    """

    versions: dict[str, str]
    device: str
    threads: int
    rolls: str
    scans: list[str]

    def __str__(self) -> str:
        """Return a table of two columns."""
        rows = [*self.versions.items(), ("device", self.device), ("CPU threads", str(self.threads))]
        rows += [("rolls", self.rolls), ("scans", ", ".join(self.scans))]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)

    def __repr__(self) -> str:
        """Return the same table."""
        return str(self)


def about() -> About:
    """Return versions, device and kernels in use, to paste into a report."""
    names = ("hbll_seq", "torch", "torchaudio", "numpy", "numba", "llvmlite", "triton")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    cuda = torch.cuda.is_available()
    scans = scan.backends()
    first = "triton" if cuda and "triton" in scans else "torch" if cuda else "numba"
    return About(
        versions,
        torch.cuda.get_device_name() if cuda else f"CPU ({os.cpu_count()} cores)",
        torch.get_num_threads(),
        _gpu_rolls() if cuda else _rolls(),
        sorted(scans, key=lambda name: name != first),
    )


def _gpu_rolls() -> str:
    if scan.runs_on("triton", "cuda"):
        return "GRU by Triton, one launch a roll (float32, or bf16 products); others step by step, or capture=True"
    return "PyTorch operations, step by step, or capture=True (Triton is not installed)"


def _rolls() -> str:
    t = machine.target()
    team = "on torch's own threads" if t.team else "on one thread"
    kinds, others = ("float32 and bf16", "float64") if t.bf16 else ("float32", "float64, bf16")
    return f"compiled by LLVM, {kinds}, vectors of {t.width}, {team} ({others}: PyTorch operations)"
