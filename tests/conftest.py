"""Strict and reproducible: one thread, a fixed seed, a plain backend for plots."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["shared_fixtures"]

# deadlines would make tests depend on the machine; the seed is fixed so that CI repeats
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
# `pytest --hypothesis-profile search` looks for examples that nobody has seen yet
settings.register_profile("search", deadline=None, max_examples=100)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def one_thread_fixed_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
