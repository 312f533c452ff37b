"""Scans agree with a plain loop and with each other, for any length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbll_seq.errors import InputError
from hbll_seq.kernels import torch_scan
from hbll_seq.scan import backends, prefix_scan, reverse_scan


def loop(a, b, h):
    out = [h]
    for ai, bi in zip(a, b, strict=True):
        out.append(ai * out[-1] + bi)
    return torch.stack(out)


@given(n=st.integers(1, 200), shape=st.sampled_from([(), (1,), (3,), (2, 5)]), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("backend", ["auto", *backends()])
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
    assert backends() == ["torch", "numba"]


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
    torch_scan.affine_scan(torch.rand(n, 2), torch.rand(n, 2), torch.rand(2))
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
        (lambda: prefix_scan(ones, ones, ones[0], backend="cuda"), "backend: got 'cuda'"),
    ],
)
def test_bad_arguments_are_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
