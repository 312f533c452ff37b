"""The lag map: credit from every block to the outcomes in every later block."""

import copy
import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.background import Others, background_of
from hbll_seq.attribution.node_knockout import SAMPLE, judge, plan_exact, sample
from hbll_seq.attribution.question import flag_or_auto, most_rolled, steps_of, unit_of
from hbll_seq.attribution.result import LagMap
from hbll_seq.attribution.secant import scale_of, secants
from hbll_seq.attribution.state_maps import TimeMaps
from hbll_seq.attribution.withheld import DONORS, WITHHELD, StandIn, combined, stand_ins
from hbll_seq.data.batch import Batch
from hbll_seq.data.outcomes import as_batch
from hbll_seq.data.scalars import choice, integer, integer_or_auto
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel

IGNORE = -100  # among labels: a step that does not count


@torch.no_grad()
def lag_map(
    model: SequenceModel, x: Any, y: Any = None, *, block_size: int | str = "auto",
    exact: bool | Literal["auto"] = "auto", background: Any = None,
    withheld: Literal["mean+swap", "mean", "skip", "swap", "zero"] = "mean", donors: int = DONORS,
    rolled: int | str = "auto",
) -> LagMap:  # fmt: skip
    """Measure how the loss in block j changes when the input of block i is withheld, for all i <= j.

    One pass over the blocks takes all changed states along. At each block `rolled` of them go through the real cell
    (r n block rolls in all); the others, and their predictions, follow from these by secants.

    Args:
        model: any recurrent model; left as it is.
        x: `(B, T)` symbols or `(B, T, D)` features; where lengths differ `(x, lengths)` or a list, as for `fit`.
        y: one target a step, `(B, T)` (-100 is ignored) or `(B, T, C)`; or one a sequence, then read at every block's
            end; None for next-step models.
        block_size: as for `credit`.
        exact: as for `credit`: "auto" rolls all up to 128 blocks, and for more where a sample of rows disagrees.
        background: as for `credit`.
        withheld: as for `credit`; within the withheld block itself "skip" leaves every step the state before the block.
        donors: as for `credit`.
        rolled: as for `credit`.

    Raises:
        InputError: wrong shapes or arguments, a missing target, a layered or bidirectional model.
    """
    if not isinstance(model, SequenceModel):
        raise InputError("model", type(model).__name__, "a SequenceModel: depth has one outcome, at its end")
    model.check_causal("model")
    how, rolled = flag_or_auto("exact", exact), integer_or_auto("rolled", rolled)
    choice("withheld", withheld, WITHHELD)
    donors = integer("donors", donors)
    batch = as_batch(x, model.targets(y), model).to(next(model.parameters()).device)
    x, whole = batch.x, model.task == "sequence"
    block = steps_of(block_size, x.shape[1], len(x))
    model = copy.deepcopy(model).double().eval()
    source = background_of(background, model, x, batch.lengths, withheld)
    others = None if source is None else Others(model, source, x, donors)
    count, where = len(x) - 1 if others is None else others.count, "x" if background is None else "background"
    by = stand_ins(withheld, donors, count, "mean", where)
    maps = TimeMaps(model, x, block, others)
    outcomes = [_Outcomes(maps, batch, whole, j) for j in range(maps.count)]

    def values(most: int | None, rows: list[int]) -> Tensor:
        return combined(torch.stack([_one(maps, one, outcomes, most, rows) for one in by]), by)

    method, error, everything = "exact", 0.0, list(range(maps.count))
    if plan_exact(how, maps.count):
        found = values(None, everything)
    else:
        found = values(most_rolled(rolled, (maps.count - 1).bit_length()), everything)
        rows = sample(found.flatten(2).nan_to_num().abs().amax(2), SAMPLE)
        error, fine = judge(found[:, rows].flatten(1), values(None, rows).flatten(1))
        method = "fast"
        if not fine and how == "auto":
            found, method = values(None, everything), "exact instead of fast"
    return LagMap(found, block, x.shape[1], unit_of(model), method, error)


def _one(maps: TimeMaps, by: StandIn, outcomes: list["_Outcomes"], most: int | None, rows: list[int]) -> Tensor:
    """Return rows of the map of one stand-in, `(B, q, n)`; `rows` ascending."""
    n, b, q = maps.count, maps.rows, 0
    values = torch.zeros(b, len(rows), n, dtype=torch.float64, device=maps.x.device)
    changed = maps.states.new_empty(0, b, maps.states.shape[-1])  # (q, B, S): the blocks before j that are withheld
    for j in range(rows[0], n):
        start = maps.states[j].view(1, 1, b, -1)  # (1, 1, B, S)
        x = maps.inputs([j])
        true = _Rolled(*maps.roll(x, start))
        normal = outcomes[j].loss(true.ends[0], true.outputs[:, 0])  # (1, B)
        before = changed
        if q:
            changed, outputs = _cross_block(maps, x, before, start, true, most)
            values[:, :q, j] = (outcomes[j].loss(changed, outputs) - normal).T
        if q < len(rows) and rows[q] == j:
            at_end = maps.withheld([(j, j + 1)], by)
            if by.how == "skip":
                quiet = maps.visible(start[0]).expand(len(x), 1, b, -1)
            else:
                quiet = maps.roll(maps.substitute([j], by), start)[2][:, 0]
            values[:, q, j] = (outcomes[j].loss(at_end, quiet) - normal)[0]
            changed, q = torch.cat([changed, at_end]), q + 1
    return values


class _Outcomes:
    """The outcomes in block j: a label read at its end, or the mean loss of its counted steps."""

    def __init__(self, maps: TimeMaps, batch: Batch, whole: bool, j: int) -> None:
        self._maps, self._whole, self._objective = maps, whole, maps.model.objective
        first = j * maps.block
        last = min(first + maps.block, maps.steps) - first - 1
        self._last = (batch.lengths.to(batch.y.device) - 1 - first).clamp(max=last)  # (B,), below 0 after the end
        self._cut = bool((self._last < last).any())
        part = slice(first, first + maps.block)
        y = batch.y if whole else batch.y[:, part]
        self._counted = None
        if not whole:
            assert batch.mask is not None
            if y.is_floating_point():
                self._counted = batch.mask[:, part].T  # (K, B)
            else:
                y = y.masked_fill(~batch.mask[:, part], IGNORE)
            y = y.transpose(0, 1)  # (K, B, ...)
        self._y = y

    def loss(self, ends: Tensor, outputs: Tensor) -> Tensor:
        """Return the loss from ends `(R, B, S)` or outputs `(K, R, B, d)`: `(R, B)`, NaN without a counted step."""
        if self._whole:
            if self._cut:  # padding stands before some ends
                index = self._last.clamp(min=0).view(1, 1, -1, 1).expand(1, *outputs.shape[1:])
                out = self._maps.model.readout(outputs.gather(0, index)[0])
            else:
                out = self._maps.read(ends)
            found = losses.each(self._objective, out, self._y.expand(*out.shape[:-1], *self._y.shape[1:]))
            return found.masked_fill(self._last < 0, math.nan)
        out = self._maps.model.readout(outputs)  # (K, R, B, V)
        y = self._y.unsqueeze(1).expand(*out.shape[:-1], *self._y.shape[2:])
        if self._counted is None:
            counted = y != IGNORE
            return losses.counted(self._objective, out, y.clamp(min=0), counted).sum(0) / counted.sum(0)
        if bool(self._counted.all()):
            return losses.each(self._objective, out, y).mean(0)
        counted = self._counted.unsqueeze(1).expand(out.shape[:-1])
        return losses.counted(self._objective, out, y, counted).sum(0) / counted.sum(0)


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
