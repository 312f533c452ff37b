"""The lag map: credit from every block to the outcomes in every later block."""

import copy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.question import most_rolled, steps_of, unit_of
from hbll_seq.attribution.result import LagMap
from hbll_seq.attribution.secant import scale_of, secants
from hbll_seq.attribution.state_maps import TimeMaps
from hbll_seq.attribution.withheld import DONORS, StandIn, combined, stand_ins
from hbll_seq.data.outcomes import as_batch
from hbll_seq.data.scalars import flag, integer_or_auto
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel

IGNORE = -100


@torch.no_grad()
def lag_map(
    model: SequenceModel, x: Any, y: Any = None, *, block_size: int | str = "auto", exact: bool = False,
    withheld: Literal["mean+swap", "mean", "skip", "swap", "zero"] = "mean", donors: int = DONORS,
    rolled: int | str = "auto",
) -> LagMap:  # fmt: skip
    """Measure how the loss in block j changes when the input of block i is withheld, for all i <= j.

    One pass over the blocks takes all changed states along. At each block `rolled` of them go through the real cell
    (r n block rolls in all); the others, and their predictions, follow from these by secants.

    Args:
        model: any recurrent model; left as it is.
        x: `(B, T)` symbols or `(B, T, D)` features.
        y: one target a step, `(B, T)` (-100 is ignored) or `(B, T, C)`; or one a sequence, then read at every block's
            end; None for next-step models.
        block_size: as for `credit`.
        exact: roll all changed states, n^2 / 2 block rolls: the reference.
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
    block = steps_of(block_size, x)
    replacements = stand_ins(withheld, donors, len(x), "mean")
    maps = TimeMaps(copy.deepcopy(model).double(), x, block)
    most = None if exact else most_rolled(rolled, (maps.count - 1).bit_length())
    values = torch.stack([_one(maps, by, model.objective, y, whole, most) for by in replacements])
    return LagMap(combined(values, replacements), block, x.shape[1], unit_of(model))


def _one(maps: TimeMaps, by: StandIn, objective: str, y: Tensor, whole: bool, most: int | None) -> Tensor:
    """Return the map `(B, n, n)` of one stand-in."""
    n, b = maps.count, maps.rows
    values = torch.zeros(b, n, n, dtype=torch.float64, device=y.device)
    changed = maps.states.new_empty(0, b, maps.states.shape[-1])  # (j, B, S): blocks 0..j-1 withheld
    for j in range(n):
        outcomes = _Outcomes(maps, objective, y, whole, j)
        start = maps.states[j].view(1, 1, b, -1)  # (1, 1, B, S)
        x = maps.inputs([j])
        true = _Rolled(*maps.roll(x, start))
        normal = outcomes.loss(true.ends[0], true.outputs[:, 0])  # (1, B)
        at_end = maps.withheld([(j, j + 1)], by)
        if by.how == "skip":
            quiet = maps.cells[-1].output(start[0]).expand(len(x), 1, b, -1)
        else:
            quiet = maps.roll(maps.substitute([j], by), start)[2][:, 0]
        values[:, j, j] = (outcomes.loss(at_end, quiet) - normal)[0]
        if j:
            changed, outputs = _cross_block(maps, x, changed, start, true, most)
            values[:, :j, j] = (outcomes.loss(changed, outputs) - normal).T
        changed = torch.cat([changed, at_end])
    return values


class _Outcomes:
    """The outcomes in block j: a label read at its end, or the mean loss of its counted steps."""

    def __init__(self, maps: TimeMaps, objective: str, y: Tensor, whole: bool, j: int) -> None:
        self._maps, self._objective, self._whole = maps, objective, whole
        self._y = y if whole else y[:, j * maps.block : (j + 1) * maps.block].transpose(0, 1)  # (K, B, ...)

    def loss(self, ends: Tensor, outputs: Tensor) -> Tensor:
        """Return the loss from ends `(R, B, S)` or outputs `(K, R, B, d)`: `(R, B)`, NaN without a counted step."""
        if self._whole:
            out = self._maps.read(ends)
            return losses.each(self._objective, out, self._y.expand(*out.shape[:-1], *self._y.shape[1:]))
        out = self._maps.model.readout(outputs)  # (K, R, B, V)
        y = self._y.unsqueeze(1).expand(*out.shape[:-1], *self._y.shape[2:])
        if y.is_floating_point():  # every value counts
            return losses.each(self._objective, out, y).mean(0)
        counted = y != IGNORE
        return losses.counted(self._objective, out, y.clamp(min=0), counted).sum(0) / counted.sum(0)


class _Rolled(NamedTuple):
    """One block rolled from the true state: ends, carries `(1, 1, B, S)` and outputs `(K, 1, 1, B, d)`."""

    ends: Tensor
    carries: Tensor
    outputs: Tensor


def _cross_block(
    maps: TimeMaps, x: Tensor, states: Tensor, start: Tensor, true: _Rolled, most: int | None
) -> tuple[Tensor, Tensor]:
    """Take changed states `(p, B, S)` through one block, at most `most` of them rolled.

    `x` is the block's input, `start` `(1, 1, B, S)` the true state before it.

    Returns:
        Ends `(p, B, S)` and outputs `(K, p, B, d)`.
    """
    if most is None or len(states) <= most:
        ends, _, outputs = maps.roll(x, states.unsqueeze(0))
        return ends[0], outputs[:, 0]
    found = secants(states.unsqueeze(0) - start, scale_of(maps), most)
    ends, _, outputs = maps.roll(x, found.pick(states.unsqueeze(0)))
    moved = found.predict(true.ends, ends) + true.carries * found.rest[..., maps.source]
    spread = found.predict(true.outputs, outputs)  # outputs have no carry of their own
    all_ends, all_outputs = found.complete(moved, ends), found.complete(spread, outputs)
    return all_ends[0], all_outputs[:, 0]
