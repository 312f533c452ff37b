"""Fingerprints of examples: equal where the values are, whatever the batch."""

import torch

from hbll_seq.rules.depth.repeats import Repeats, fingerprints


def test_fingerprints_tell_rows_apart_whatever_the_dtype_and_the_batch():
    g = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64):
        x = (4 * torch.randn(300, 4, 8, generator=g)).relu().to(dtype)
        found = fingerprints(x)
        assert len(set(found)) == 300 and all(-(2**63) <= one < 2**63 for one in found)
        assert fingerprints(x[7:9]) == found[7:9] == fingerprints(x.flip(0))[-9:-7][::-1]
    swapped = torch.tensor([[1, 2, 3], [2, 1, 3], [3, 2, 1], [0, 3, 3], [0, 0, 6]])  # equal sums
    assert len(set(fingerprints(swapped))) == 5
    assert fingerprints(torch.zeros(0, 3)) == [] and not Repeats().again(torch.zeros(0, 3))
    assert len(set(fingerprints(torch.arange(6)))) == 6
