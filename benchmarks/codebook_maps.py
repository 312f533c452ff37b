"""Guesses for boundary states where states do not forget but form few clusters: finite maps, composed over the tree.

A network that tracks a state carries it through every block, so sweeps from zero need as many rounds as there are
blocks. What it carries is often one of few things. A codebook keeps one state, a *codeword*, for each of them (or
several). Every codeword is rolled through every block at once; the codeword nearest to where it ends is its image, so a
block becomes a map from codewords to codewords. Maps compose, and composing is associative: a scan with log2 n levels
gives the codeword at every boundary, and the end of the block before it, rolled from the codeword there, is the guess.

Which codeword is a state nearest to? States that mean the same can lie far apart, and states that mean different things
close together, but the same inputs bring the former together and keep the latter apart. So both are rolled through a
*probe*, a few steps of some sequence of the batch, and what is compared is the state and, with more weight, its *mark*,
where the probe leaves it. Marks are made anew at every step, with the step's weights.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.engine.blocks import Depth

ROWS = 4096  # rolled at a time
PROBE = 32  # steps
WEIGHT = 30.0  # of the marks' distance beside that of the states
RADIUS = 3.0  # within it states share a codeword; states that mean something else are about WEIGHT apart
FINE = 2  # sweeps after a guess that need no new codewords


class Guess(NamedTuple):
    """What a codebook says about the boundaries.

    Attributes:
        start: `(n, B, S)` states at the blocks' starts.
        names: `(n, B)` codeword at each of them; that of the first is 0 and means nothing.
        rows: rows of K steps rolled for it, and then of the probe's.
    """

    start: Tensor
    names: Tensor
    rows: int


class Codebook:
    """Codewords of a cell, and a probe by which states are compared with them.

    Args:
        cell: the layer's cell.
        codes: `(C, S)` codewords.
        probe: `(P, D)` inputs; P may be 0, and then states are compared as they are.
        weight: of the marks' distance beside that of the states.
    """

    @torch.no_grad()
    def __init__(self, cell: Cell, codes: Tensor, probe: Tensor, weight: float = WEIGHT) -> None:
        self._cell, self.codes, self._probe, self._weight = cell, codes, probe, weight
        self._features = self.features(codes)

    def __len__(self) -> int:
        """Codewords."""
        return len(self.codes)

    @classmethod
    @torch.no_grad()
    def covering(
        cls, cell: Cell, states: Tensor, probe: Tensor, most: int, radius: float = RADIUS, weight: float = WEIGHT
    ) -> "Codebook":
        """Of at most `most` of the states `(N, S)`, so that all are near one.

        Args:
            cell, probe, weight: see the class.
            states: true boundary states, of any steps.
            most: the largest number of codewords.
            radius: squared distance, in variances of the states, up to which a state needs no codeword of its own.
        """
        features = cls(cell, states[:1], probe, weight).features(states)
        within = radius * float(states.var(0, correction=0).sum()) / features.shape[-1]
        return cls(cell, states[cover(features, most, within)], probe, weight)

    def features(self, states: Tensor) -> Tensor:
        """State and weighted mark `(N, F)` of states `(N, S)`."""
        if not len(self._probe):
            return states
        x = self._probe[:, None].expand(-1, len(states), -1)
        marks = self._cell.roll(x.contiguous(), states, keep=False, carry=False).end
        return torch.cat([states, marks * math.sqrt(self._weight)], -1)

    def nearest(self, states: Tensor) -> Tensor:
        """Index `(...)` of the codeword nearest to each of the states `(..., S)`."""
        flat = states.reshape(-1, states.shape[-1])
        found = [torch.cdist(self.features(part), self._features).argmin(1) for part in flat.split(ROWS)]
        return torch.cat(found).view(states.shape[:-1])

    def distance(self, states: Tensor) -> Tensor:
        """`(N,)` squared distance of states `(N, S)` to their codewords."""
        return torch.cdist(self.features(states), self._features).amin(1).square()

    @torch.no_grad()
    def maps(self, x: Tensor, start: Tensor, projected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ends `(n, C, B, S)` of all blocks from all codewords, and the codeword `(n, C, B)` nearest to each.

        Args:
            x: `(K, n, B, D)` inputs.
            start: `(B, S)` where the first block starts, whatever the codeword.
            projected: `(K, n, B, P)` the cell's projection of x, or None to have each roll make it.
        """
        n, b = x.shape[1], x.shape[2]
        ends, found = [], []
        for part in self.codes.split(max(1, ROWS // (n * b))):
            c = len(part)
            state = torch.cat([start.expand(1, c, b, -1), part[None, :, None].expand(n - 1, c, b, -1)]).flatten(0, 2)
            rows, given = _repeated(x, c), None if projected is None else _repeated(projected, c)
            end = self._cell.roll(rows, state, keep=False, projected=given, carry=False).end.view(n, c, b, -1).clone()
            ends.append(end)
            found.append(self.nearest(end))
        return torch.cat(ends, 1), torch.cat(found, 1)

    @torch.no_grad()
    def guess(self, x: Tensor, start: Tensor, depth: Depth, projected: Tensor | None = None) -> Guess:
        """Boundary states by composing what the blocks do to codewords; arguments as for `maps`, and the counter."""
        k, n, b, _ = x.shape
        ends, maps = self.maps(x, start, projected)
        depth.steps += k + len(self._probe)
        at = compose(maps[: n - 1], depth)[:, 0]  # (n-1, B): the first map is constant, and so are all prefixes
        at = torch.cat([torch.zeros_like(maps[:1, 0]), at])  # (n, B)
        end = ends.gather(1, at[:, None, :, None].expand(n, 1, b, ends.shape[-1]))[:, 0]
        return Guess(torch.cat([start[None], end[: n - 1]]), at, len(self) * n * b)


@torch.no_grad()
def renewed(cell: Cell, start: Tensor, valid: Tensor | None, old: Tensor | None, probe: Tensor, most: int) -> Tensor:
    """Codewords `(C, S)`, at most `most`: first of a step's own boundaries, then old ones that none of these is near.

    Args:
        cell, probe: see `Codebook`.
        start: `(n, B, S)` boundaries.
        valid: `(n-1, B, 1)` 1.0 where a boundary lies inside its sequence; None where all do.
        old: `(C, S)` codewords of earlier steps, or None.
        most: the largest number.
    """
    states = start[1:].flatten(0, 1) if valid is None else start[1:][valid.squeeze(-1) > 0]
    if not len(states):
        return start[0] if old is None else old
    new = Codebook.covering(cell, states, probe, most).codes
    if old is None:
        return new
    book = Codebook(cell, new, probe)
    within = RADIUS * float(states.var(0, correction=0).sum())
    old = old.to(new)[book.distance(old.to(new)) > within]
    if not len(old):
        return new
    return torch.cat([new, Codebook.covering(cell, old, probe, most).codes])[:most]


def _repeated(x: Tensor, times: int) -> Tensor:
    """`(K, n, B, D) -> (K, n times B, D)`."""
    k, n, b, d = x.shape
    return x[:, :, None].expand(k, n, times, b, d).reshape(k, n * times * b, d)


def cover(points: Tensor, most: int, radius: float) -> Tensor:
    """Indices of at most `most` points, each the farthest from those before, until all are within `radius` of one.

    Distances are mean squares over the last axis of `(N, F)`.
    """
    chosen = [0]
    far = (points - points[0]).square().mean(-1)
    while len(chosen) < most:
        distance, at = far.max(0)
        if not float(distance) > radius:
            break
        chosen.append(int(at))
        far = torch.minimum(far, (points - points[at]).square().mean(-1))
    return torch.tensor(chosen, device=points.device)


def compose(maps: Tensor, depth: Depth) -> Tensor:
    """All prefixes of maps `(n, C, B)` of codewords: entry i is maps 0 to i, one after the other. log2 n levels."""
    n, reach = len(maps), 1
    while reach < n:
        depth.levels += 1
        later = maps[reach:].gather(1, maps[:-reach])  # first the one before
        maps = torch.cat([maps[:reach], later])
        reach *= 2
    return maps
