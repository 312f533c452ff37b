"""Scans agree with a plain loop and with each other, for any length."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hbll_seq
from hbll_seq.errors import InputError
from hbll_seq.kernels import torch_scan
from hbll_seq.kernels.scan import backends, prefix_scan, reverse_scan, set_backend

here = [name for name in backends() if name != "triton"]  # that one needs a GPU, or the interpreter (below)


def loop(a, b, h):
    out = [h]
    for ai, bi in zip(a, b, strict=True):
        out.append(ai * out[-1] + bi)
    return torch.stack(out)


@given(n=st.integers(1, 200), shape=st.sampled_from([(), (1,), (3,), (2, 5)]), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("backend", ["auto", *here])
def test_scans_equal_a_loop(backend, dtype, tolerance, n, shape, seed):
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(n, *shape, generator=g, dtype=dtype) * 2 - 1
    b, h = torch.randn(n, *shape, generator=g, dtype=dtype), torch.randn(shape, generator=g, dtype=dtype)
    exact = loop(a.double(), b.double(), h.double())
    got = prefix_scan(a, b, h, backend=backend)
    assert got.dtype == dtype and got.shape == (n + 1, *shape)
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)
    back = reverse_scan(a, b, h, backend=backend)
    exact = loop(a.double().flip(0), b.double().flip(0), h.double()).flip(0)
    torch.testing.assert_close(back.double(), exact, rtol=tolerance, atol=tolerance)


def test_numba_is_one_of_the_backends_here():
    assert backends()[:2] == ["torch", "numba"]


@pytest.mark.parametrize("scan", [prefix_scan, reverse_scan])
@pytest.mark.parametrize("backend", here)
def test_any_layout_of_memory_will_do(backend, scan):
    a, b, h = torch.rand(3, 7).t(), torch.randn(7, 1).expand(7, 3), torch.randn(6)[::2]
    exact = scan(a.contiguous(), b.contiguous(), h.contiguous(), backend="torch")
    torch.testing.assert_close(scan(a, b, h, backend=backend), exact)
    assert scan(a[:, :0], b[:, :0], h[:0], backend=backend).shape == (8, 0)


@pytest.mark.parametrize("scan", [prefix_scan, reverse_scan])
@pytest.mark.parametrize("backend", here)
def test_no_gradient_passes_and_arguments_stay_as_they_are(backend, scan):
    given = [torch.rand(5, 2, requires_grad=True), torch.rand(5, 2, requires_grad=True), torch.rand(2)]
    kept = [v.detach().clone() for v in given]
    got = scan(*given, backend=backend)
    assert not got.requires_grad
    got += 1  # a fresh tensor: the caller may write to it
    assert all(v.equal(k) for v, k in zip(given, kept, strict=True))


def test_what_auto_stands_for_can_be_chosen(monkeypatch):
    calls = []
    kernel = torch_scan.affine_scan
    monkeypatch.setattr(torch_scan, "affine_scan", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    try:
        prefix_scan(ones, ones, ones[0])
        assert not calls  # numba, on a CPU
        set_backend("torch")
        prefix_scan(ones, ones, ones[0])
        reverse_scan(ones, ones, ones[0], backend="numba")
        assert len(calls) == 1
    finally:
        set_backend("auto")
    with pytest.raises(InputError, match="backend: got 'cuda'"):
        set_backend("cuda")


TRITON = """
import torch
from hbll_seq.kernels.scan import backends, prefix_scan, reverse_scan
assert backends() == ["torch", "numba", "triton"]
for dtype, tolerance in (torch.float64, 1e-12), (torch.float32, 1e-5):
    for n, shape in (1, ()), (2, (3,)), (31, (1,)), (32, (2, 20)), (33, (33,)), (67, (5,)), (3, (0,)):
        a, b = torch.rand(n, *shape, dtype=dtype) * 2 - 1, torch.randn(n, *shape, dtype=dtype)
        h = torch.randn(shape, dtype=dtype)
        for scan in prefix_scan, reverse_scan:
            exact = scan(a.double(), b.double(), h.double(), backend="torch")
            got = scan(a, b, h, backend="triton")
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=tolerance)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_kernel_by_its_interpreter():
    # in a process of its own: triton reads the variable when it is imported
    subprocess.run([sys.executable, "-c", TRITON], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})


def test_numba_works_where_nothing_can_be_written(tmp_path):
    package = tmp_path / "hbll_seq"
    shutil.copytree(Path(hbll_seq.__file__).parent / "kernels", package / "kernels", ignore=lambda *_: ["__pycache__"])
    (package / "__init__.py").write_text("")
    # a file where the directory should be stops root too, whom permissions do not
    (package / "kernels" / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    code = "import torch; from hbll_seq.kernels.numba_scan import affine_scan as f; o = torch.ones(3, 2); print(f(o, o, o[0]))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")} | {
        "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}  # fmt: skip
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "[4., 4.]" in done.stdout, done.stderr


def test_zeros_and_ones_as_carries_are_exact():
    b, h = torch.arange(1.0, 8.0)[:, None], torch.tensor([100.0])
    for backend in backends():
        assert prefix_scan(torch.zeros_like(b), b, h, backend=backend)[1:].equal(b)
        assert prefix_scan(torch.ones_like(b), b, h, backend=backend)[-1].item() == 128.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 64, 65])
def test_the_reference_takes_log2_n_levels(n, monkeypatch):
    calls = []
    compose = torch_scan.compose
    monkeypatch.setattr(torch_scan, "compose", lambda *args: calls.append(1) or compose(*args))
    torch_scan.affine_scan(torch.rand(n, 2), torch.rand(n, 2), torch.rand(2), reverse=n % 2 == 0)
    assert len(calls) == torch_scan.levels(n) == max(0, (n - 1).bit_length())


def test_composition_is_associative_and_is_application():
    maps = [(torch.rand(3).double(), torch.rand(3).double()) for _ in range(3)]
    left = torch_scan.compose(*torch_scan.compose(*maps[0], *maps[1]), *maps[2])
    right = torch_scan.compose(*maps[0], *torch_scan.compose(*maps[1], *maps[2]))
    h = torch.rand(3).double()
    applied = h
    for a, b in maps:
        applied = a * applied + b
    torch.testing.assert_close(left, right)
    torch.testing.assert_close(left[0] * h + left[1], applied)


ones = torch.ones(3, 2)


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: prefix_scan(ones[:0], ones[:0], ones[0]), "a: got shape"),
        (lambda: prefix_scan(ones, ones[:2], ones[0]), "b: got shape"),
        (lambda: prefix_scan(ones, ones, ones), "h0: got shape"),
        (lambda: reverse_scan(ones, ones, ones), "last: got shape"),
        (lambda: prefix_scan(ones, ones.double(), ones[0]), "a: got dtypes"),
        (lambda: prefix_scan(ones.int(), ones.int(), ones[0].int()), "a: got dtypes"),
        (lambda: prefix_scan(ones, ones, 0.0), "h0: got float; expected a tensor"),
        (lambda: prefix_scan(ones, ones.to("meta"), ones[0]), "a: got devices cpu, meta, cpu"),
        (lambda: prefix_scan(ones, ones, ones[0], backend="cuda"), "backend: got 'cuda'"),
        (lambda: prefix_scan(*[ones.to("meta")] * 2, ones[0].to("meta"), backend="numba"), "backend: got 'numba' for"),
    ],
)
def test_bad_arguments_are_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
