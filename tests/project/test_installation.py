"""`about()` says what is in use."""

import importlib.metadata

import torch

import hbll_seq as hs
from hbll_seq.kernels import scan


def test_it_names_versions_device_and_kernels():
    found = hs.about()
    assert found.versions["torch"] == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert set(found.scans) == set(scan.backends())
    text = str(found)
    assert all(name in text for name in ("python", "numba", "rolls", "bf16", "device"))


def test_a_package_that_is_missing_is_said_to_be(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert hs.about().versions["triton"] == "not installed"
