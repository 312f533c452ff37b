"""A short text that identifies the data of a run: sizes, and a hash of a fixed sample of the values.

It is cheap, so it is no proof: in data larger than the sample, one changed value may go unnoticed. Another order,
scale, split, length or type of the data does not.
"""

import hashlib

import torch
from torch import Tensor

from hbll_seq.data.pairs import Pairs
from hbll_seq.data.sources import LongText, Padded, Source
from hbll_seq.data.streams import Streams

_ROWS, _STEPS, _VALUES, _SYMBOLS = 256, 256, 64, 1 << 16


def fingerprint(source: Source | None) -> str | None:
    """Return the text for sequences in memory or a long text; None for a DataLoader, which would have to be read.

    The integer type of a text's symbols does not matter. Nor do values after the end of a sequence, or targets that do
    not count.
    """
    found = hashlib.sha256()
    if isinstance(source, LongText):
        n = len(source.symbols)
        _take_in(found, source.symbols[_spread(n, _SYMBOLS).to(source.symbols.device)].to(torch.int64))
        return f"a text of {n} symbols, {found.hexdigest()[:16]}"
    if isinstance(source, Streams):
        return _of_streams(source, found)
    if not isinstance(source, Padded):
        return None
    _take_in(found, source.lengths)
    for row in _spread(len(source.x), _ROWS).tolist():
        steps = _spread(int(source.lengths[row]), _STEPS).to(source.x.device)
        _take_in(found, source.x[row][steps])
        target = source.y[row]
        if isinstance(source, Pairs):
            for part in source.parts():
                one = part[row].reshape(-1)
                _take_in(found, one[_spread(len(one), _STEPS)])
            continue
        if source.mask is not None:
            counted = source.mask[row][steps]
            _take_in(found, counted)
            target = target[steps]
            target = torch.where(counted.view(-1, *[1] * (target.ndim - 1)), target, torch.zeros_like(target))
        _take_in(found, target)
    shape = " x ".join(map(str, source.x.shape))
    kind = str(source.x.dtype).removeprefix("torch.")
    return f"{shape} {kind}, {int(source.lengths.sum())} steps in all, {found.hexdigest()[:16]}"


def _of_streams(source: Streams, found: "hashlib._Hash") -> str:
    x = source.series.x
    n, t = x.shape[:2]
    steps = _spread(t, max(2, _SYMBOLS // n))
    for row in _spread(n, _ROWS).tolist():
        for values in (x, source.y, source.mask):
            if values is not None:
                some = values[row][steps]
                _take_in(found, some if some.is_floating_point() else some.to(torch.int64))
    return f"streams of {' x '.join(map(str, x.shape))}, {found.hexdigest()[:16]}"


def _spread(n: int, most: int) -> Tensor:
    """Return at most `most` positions of 0 .. n - 1, evenly spread, with the first and the last."""
    return torch.arange(n) if n <= most else torch.arange(most) * (n - 1) // (most - 1)


def _take_in(found: "hashlib._Hash", values: Tensor) -> None:
    """Hash type, shape and bits; of wide time steps only a sample."""
    found.update(f"{values.dtype}{tuple(values.shape)}".encode())
    flat = values.detach().reshape(len(values), -1) if values.ndim else values.detach().reshape(1, 1)
    if values.ndim > 1:
        flat = flat[:, _spread(flat.shape[1], _VALUES).to(flat.device)]
    found.update(flat.cpu().contiguous().view(torch.uint8).numpy().tobytes())
