"""The lag map: credit from every block to the outcomes in every later block."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from hbll_seq.attribution.nodes import blocks_of, rolled_of
from hbll_seq.attribution.question import outcome_loss, unit_of
from hbll_seq.attribution.result import LagMap
from hbll_seq.attribution.secant import choose, explain, scale_of
from hbll_seq.attribution.state_maps import TimeChain
from hbll_seq.attribution.withheld import DONORS, Way, combined, ways_of
from hbll_seq.data.outcomes import as_batch
from hbll_seq.data.scalars import flag, integer_or_auto
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel

IGNORE = -100


@torch.no_grad()
def lag_map(
    model: SequenceModel,
    x: Any,
    y: Any = None,
    *,
    block_size: int | str = "auto",
    exact: bool = False,
    withheld: Literal["mean+swap", "mean", "skip", "swap", "zero"] = "mean",
    donors: int = DONORS,
    rolled: int | str = "auto",
) -> LagMap:
    """Change of the loss in block j when block i's input is withheld, for all i <= j.

    One pass over the blocks with all changed states at once. At each block `rolled` of them go through the real cell
    (r n block rolls in all), the others by secant jumps, their predictions too; `exact` rolls all, n^2 / 2.

    Args:
        model: any recurrent model; left as it is.
        x: `(B, T)` symbols or `(B, T, D)` features.
        y: one target a step, `(B, T)` (-100 is ignored) or `(B, T, C)`; or one a sequence, then read at every block's
            end; None for next-step models.
        block_size: as for `credit`.
        exact: as for `credit`.
        withheld: as for `credit`; within the withheld block itself "skip" leaves every step the state before the block.
        donors: as for `credit`.
        rolled: as for `credit`.

    Raises:
        InputError: wrong shapes or arguments, a missing target, a layered model.
    """
    if not isinstance(model, SequenceModel):
        raise InputError("model", type(model).__name__, "a SequenceModel: depth has one outcome, at its end")
    exact, rolled = flag("exact", exact), integer_or_auto("rolled", rolled)
    batch = as_batch(x, y, model).to(next(model.parameters()).device)
    if int(batch.lengths.min()) < batch.x.shape[1]:
        raise InputError("x", "sequences of different lengths", "one length, or one call a length")
    x, y, whole = batch.x, batch.y, model.task == "sequence"
    if batch.mask is not None and model.objective == "cross_entropy":
        y = y.masked_fill(~batch.mask, IGNORE)
    block = blocks_of(x, block_size)
    ways = ways_of(withheld, donors, len(x), "mean")
    chain = TimeChain(copy.deepcopy(model).double(), x, block)
    most = None if exact else rolled_of(rolled, (chain.count - 1).bit_length())
    values = torch.stack([_one(chain, way, model.objective, y, whole, most) for way in ways])
    return LagMap(combined(values, ways), block, x.shape[1], unit_of(model))


def _one(chain: TimeChain, way: Way, objective: str, y: Tensor, whole: bool, most: int | None) -> Tensor:
    """The map `(B, n, n)` of one stand-in."""
    n, b = chain.count, chain.rows
    values = torch.zeros(b, n, n, dtype=torch.float64, device=y.device)
    changed = chain.states.new_empty(0, b, chain.states.shape[-1])  # (j, B, S): blocks 0..j-1 withheld
    for j in range(n):
        outcomes = _Outcomes(chain, objective, y, whole, j)
        usual = chain.states[j].unsqueeze(0)
        x_j = chain.inputs([j])
        end, carry, out = chain.roll(x_j, usual.unsqueeze(0), outputs=True)
        assert out is not None
        normal = outcomes.loss(end[0], out[:, 0])  # (1, B)
        at_end = chain.withheld([(j, j + 1)], way)
        if way.how == "skip":
            quiet = chain.cells[-1].output(usual).expand(len(x_j), 1, b, -1)
        else:
            given = chain.roll(chain.substitute([j], way), usual.unsqueeze(0), outputs=True)[2]
            assert given is not None
            quiet = given[:, 0]
        values[:, j, j] = (outcomes.loss(at_end, quiet) - normal)[0]
        if j:
            changed, outputs = _cross(chain, x_j, changed, usual, (end[0], out[:, 0]), carry, most)
            values[:, :j, j] = (outcomes.loss(changed, outputs) - normal).T
        changed = torch.cat([changed, at_end])
    return values


class _Outcomes:
    """The outcomes in block j: a label read at its end, or the mean loss of its counted steps."""

    def __init__(self, chain: TimeChain, objective: str, y: Tensor, whole: bool, j: int) -> None:
        self._chain, self._objective, self._whole = chain, objective, whole
        self._y = y if whole else y[:, j * chain.block : (j + 1) * chain.block].transpose(0, 1)  # (K, B, ...)

    def loss(self, ends: Tensor, outputs: Tensor) -> Tensor:
        """Ends `(R, B, S)` and outputs `(K, R, B, d)`: `(R, B)`, NaN without any counted step."""
        if self._whole:
            out = self._chain.read(ends)
            return outcome_loss(self._objective, out, self._y.expand(*out.shape[:-1], *self._y.shape[1:]))
        out = self._chain.model.readout(outputs)  # (K, R, B, V)
        y = self._y.unsqueeze(1).expand(*out.shape[:-1], *self._y.shape[2:])
        if self._objective == "mse":
            return outcome_loss(self._objective, out, y).mean(0)
        counted = y != IGNORE
        each = torch.where(counted, outcome_loss(self._objective, out, y.clamp(min=0)), 0.0)
        return each.sum(0) / counted.sum(0)


def _cross(
    chain: TimeChain,
    x: Tensor,
    states: Tensor,
    usual: Tensor,
    known: tuple[Tensor, Tensor],
    carry: Tensor,
    most: int | None,
) -> tuple[Tensor, Tensor]:
    """Changed states `(p, B, S)` through one block: ends, outputs `(K, p, B, d)`; at most `most` of them rolled."""
    if most is None or len(states) <= most:
        ends, _, out = chain.roll(x, states.unsqueeze(0), outputs=True)
        assert out is not None
        return ends[0], out[:, 0]
    scale = scale_of(chain)
    changes = (states - usual).unsqueeze(0)  # (1, p, B, S)
    index = choose(changes / scale, most).unsqueeze(-1)  # (1, r, B, 1)
    real = states.unsqueeze(0).gather(1, index.expand(-1, -1, -1, states.shape[-1]))
    ends, _, out = chain.roll(x, real, outputs=True)
    assert out is not None
    weights = explain((real - usual) / scale, changes / scale)
    rest = changes - torch.einsum("mrbp,mrbs->mpbs", weights, real - usual)
    moved = torch.einsum("mrbp,mrbs->mpbs", weights, ends - known[0]) + carry * rest[..., chain.source]
    spread = torch.einsum("rbp,krbs->kpbs", weights[0], out[:, 0] - known[1])
    all_ends = (known[0] + moved).scatter(1, index.expand_as(ends), ends)[0]
    all_out = (known[1] + spread).scatter(1, index.expand(len(x), *out.shape[2:]), out[:, 0])
    return all_ends, all_out
