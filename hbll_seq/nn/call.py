"""One call of a layer: PyTorch's layouts of input and states, around a stack of cells on padded sequences."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from hbll_seq.cells import Cell
from hbll_seq.nn.engined import Engined
from hbll_seq.nn.packing import Packing
from hbll_seq.nn.projected import Projected
from hbll_seq.nn.stack import SPREAD


class Layered(Engined):
    """The part of a layer that a call reads.

    Attributes:
        hidden_size: d.
        num_layers: depth of the stack.
        batch_first, dropout, bidirectional: as in `nn.GRU`.
        pair: whether a state is a pair (h, c).
    """

    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    pair: bool = False

    def cells(self) -> list[list[Cell | Projected]]:
        """View the weights as cells, all directions of a layer together; valid until weights are replaced."""
        raise NotImplementedError

    def weight(self) -> Tensor:
        """Return one of the weights, for dtype and device."""
        raise NotImplementedError


def call(layer: Layered, given: Any, states: list[Tensor]) -> tuple[Any, Any]:
    """Run a layer on input that fits it.

    Args:
        layer: a layer of this folder.
        given: `(T, B, D)`, `(B, T, D)` if the layer is batch-first, `(T, D)`, or a `PackedSequence`.
        states: none for a zero start; else `(L * directions, B, d)`, of an LSTM h and c.

    Returns:
        Outputs and last states in PyTorch's layouts.
    """
    packing, lengths = Packing.of(given) if isinstance(given, PackedSequence) else None, None
    single = packing is None and given.ndim == 2
    if packing is not None:
        x = packing.padded(given.data)
        spread = SPREAD.get()
        lengths = packing.lengths if spread is None else spread.within(packing.lengths)
    else:
        x = given.unsqueeze(0) if single else given if layer.batch_first else given.transpose(0, 1)
    dtype = layer.weight().dtype
    cells = layer.cells()

    def between(number: int, _: Tensor, out: Tensor) -> Tensor:
        if not layer.training or not layer.dropout or number == layer.num_layers - 1:
            return out
        if packing is not None:  # drawn for the same values in the same order as PyTorch's layer draws them
            return packing.padded(functional.dropout(packing.packed(out), layer.dropout))
        return functional.dropout(out.transpose(0, 1).contiguous(), layer.dropout).transpose(0, 1)

    out, ends = layer.run_cells(
        cells, x.to(dtype), _starts(layer, states, single), lengths,
        between=between, ends=True,
    )  # fmt: skip
    hidden = _hidden(layer, ends, single)
    if packing is not None:
        if lengths is not None and not int(lengths.min()):  # a sequence that ended in an earlier span
            out = out.masked_fill((lengths == 0).to(out.device)[:, None, None], 0)
        data = packing.packed(out)
        return PackedSequence(data, given.batch_sizes, given.sorted_indices, given.unsorted_indices), hidden
    return out[0] if single else out if layer.batch_first else out.transpose(0, 1), hidden


def _starts(layer: Layered, states: list[Tensor], single: bool) -> list[Tensor | None]:
    """Return the start `(B, S)` of every cell, `[c | h]` for an LSTM; None for zero."""
    if not states:
        return [None] * (layer.num_layers * (1 + layer.bidirectional))
    dtype = layer.weight().dtype
    states = [(one.unsqueeze(1) if single else one).to(dtype) for one in states]
    return list((states[0] if len(states) == 1 else torch.cat(states[::-1], -1)).unbind(0))


def _hidden(layer: Layered, ends: list[Tensor], single: bool) -> Any:
    """Return the cells' last states in PyTorch's layout."""
    if any(one.shape != ends[0].shape for one in ends):  # layers of different widths
        return [one[0] if single else one for one in ends]
    state = torch.stack(ends)
    state = state[:, 0] if single else state
    if not layer.pair:
        return state
    d = layer.hidden_size
    return state[..., d:], state[..., :d]
