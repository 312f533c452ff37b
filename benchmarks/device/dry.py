"""What a dry run puts in the place of a GPU: tiny shapes, Triton's interpreter, and the tests' recorder of CUDA graphs.

It shows that every job runs and leaves its line. It shows nothing about times, and of kernels only what the interpreter can.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.device.where import ROOT
from hbll_seq.kernels import graphs

RECORDER = ROOT / "tests" / "recorder.py"


def environment() -> dict[str, str]:
    """Of the process of a dry run: triton reads this when it is imported."""
    return os.environ | {"TRITON_INTERPRET": "1"}


def no_triton() -> str | None:
    """Why Triton's kernels cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return "no GPU, and no TRITON_INTERPRET=1"


def no_graphs(device: torch.device) -> str | None:
    """Why rolls cannot be recorded there, or None."""
    if device.type == "cuda" or RECORDER.exists():
        return None
    return "no GPU, and tests/recorder.py is not there"


@contextmanager
def recording(device: torch.device) -> Iterator[None]:
    """Inside it rolls can be recorded: by CUDA on a GPU, elsewhere by the tests' recorder, where it is."""
    if device.type == "cuda" or no_graphs(device):
        yield
        return
    spec = importlib.util.spec_from_file_location("recorder", RECORDER)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = graphs.recorder
    graphs.recorder = lambda device: module.Recorder()  # one for the CPU
    try:
        yield
    finally:
        graphs.recorder = before
