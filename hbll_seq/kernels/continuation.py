"""The compiled continuation of a sequence of symbols by a stack of layers of one kind, float32 on the CPU."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from hbll_seq.kernels import machine
from hbll_seq.kernels.emit_continuation import PANELS
from hbll_seq.kernels.packing import packed, padded, padded_weight
from hbll_seq.kernels.recipes import Recipe


class Layer(NamedTuple):
    """Weights of a layer, `(inputs * d, d)`, `(inputs * d,)`, `(gates * d, d)`, `(gates * d,)`; None for zero.

    The first layer's input weights are not read: a table has its projected inputs.
    """

    input: Tensor | None
    input_bias: Tensor | None
    recurrent: Tensor | None
    recurrent_bias: Tensor | None


class Continuation:
    """A network in the middle of a sequence, with its weights packed: later changes of them are not seen.

    Args:
        recipe: the formulas of all layers.
        table: `(V, inputs * d)` projected inputs of the first layer, by symbol.
        layers: weights, one for each layer.
        states: `(1, S)` of each layer.
        readout: `(V, d)`.
        offsets: `(V,)` bias of the read-out, or None.
        temperature: 0 for the first largest logit.
        keep: the choice is among so many largest logits; None for all.
        share: the choice is among the largest logits that make this share of the probability; None for all.
    """

    @torch.no_grad()
    def __init__(
        self, recipe: Recipe, table: Tensor, layers: list[Layer], states: list[Tensor], readout: Tensor,
        offsets: Tensor | None, temperature: float, keep: int | None = None, share: float | None = None,
    ) -> None:  # fmt: skip
        w, d = machine.target().width, states[0].shape[1] // recipe.parts
        units = -(-d // w) * w
        self._count, wide = len(readout), PANELS * w
        rows = -(-self._count // wide) * wide
        self._layers = [_packed(recipe, one, d, units, first=not i) for i, one in enumerate(layers)]
        pointers = [[t.data_ptr() for t in one] for one in self._layers]
        start = torch.stack([padded(one, recipe.parts, d, units) for one in states])  # (depth, 1, parts * units)
        offsets = readout.new_zeros(self._count) if offsets is None else offsets
        grouped = pad(readout, (0, units - d, 0, rows - self._count)).view(rows // wide, PANELS, w, units)
        self._tensors = [
            padded(table, recipe.inputs, d, units),
            torch.tensor(pointers, dtype=torch.int64),
            torch.cat([start, torch.zeros_like(start)], 1),  # (depth, 2, parts * units)
            table.new_empty(recipe.inputs * units),
            grouped.permute(0, 3, 1, 2).contiguous(),
            pad(offsets, (0, rows - self._count), value=-math.inf),
            table.new_empty(rows),
            table.new_empty(rows),
        ]
        self._numbers = (len(layers), units, self._count)
        self._floats = [math.log2(math.e) / (temperature or 1.0)]
        narrowed = temperature > 0 and (keep is not None or share is not None)
        if narrowed:
            self._floats += [min(keep or self._count, self._count), 2.0 if share is None else share]
        self._run = machine.continuation(recipe, temperature == 0, narrowed)

    def extend(self, symbol: int, uniform: Tensor) -> list[int]:
        """Read a symbol and choose as many new ones as there are uniform numbers `(m,)`, float64; m is even.

        The list is shorter, and its last element -1, if the predictions are not finite.
        """
        symbols = torch.full((len(uniform) + 1,), -1)
        symbols[0] = symbol
        pointers = [t.data_ptr() for t in (symbols, uniform, *self._tensors)]
        self._run(*pointers, len(uniform), *self._numbers, *self._floats)
        found: list[int] = symbols.tolist()[1:]
        return found[: found.index(-1) + 1] if -1 in found else found


def _packed(recipe: Recipe, layer: Layer, d: int, units: int, *, first: bool) -> list[Tensor]:
    """Return the tensors of a layer in the order of `emit_continuation.LAYER`."""
    w, found = machine.target().width, []
    for weight, bias, gates in (
        (None if first else layer.input, layer.input_bias, recipe.inputs),
        (layer.recurrent, layer.recurrent_bias, recipe.gates),
    ):
        found.append(torch.zeros(0) if weight is None else packed(padded_weight(weight, gates, d, units), w))
        found.append(torch.zeros(gates * units) if bias is None else padded(bias, gates, d, units))
    return found
