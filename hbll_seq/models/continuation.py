"""The continuation of a sequence by a model of the next symbol, a symbol at a time, in constant memory.

The general path is `SequenceModel.advance` and `Sampler.pick`. A plain model on the CPU in float32 goes through a
compiled loop, which chooses the same symbols, up to rounding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hbll_seq.cells.elman import ElmanCell
from hbll_seq.cells.gru import GRUCell
from hbll_seq.cells.lstm import LSTMCell
from hbll_seq.cells.mingru import MinGRUCell
from hbll_seq.kernels.continuation import Continuation, Layer
from hbll_seq.kernels.recipes import Recipe
from hbll_seq.models.plain import untouched
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.sampler import Sampler, not_finite

KINDS = (GRUCell, LSTMCell, ElmanCell, MinGRUCell)
METHODS = ("embed", "cells", "advance", "between")
MODULES = {"embedding", "rnn", "readout"}
PROMPT = 4096  # symbols of a prompt read at a time
CALL = 64  # symbols chosen in one compiled call, after which an interrupt gets through; even


@torch.no_grad()
def continued(model: SequenceModel, ids: Tensor, length: int, sampler: Sampler) -> Iterator[int]:
    """Generate `length` symbols after a prompt `(m,)` of int64 symbols on the CPU.

    The weights must not change in between.
    """
    logits, state = _heard(model, ids)
    symbol = sampler.pick(logits)
    yield symbol
    recipe = compiled(model)
    if recipe is not None and length > 1:
        yield from _compiled(model, recipe, state, symbol, length - 1, sampler)
        return
    for _ in range(length - 1):
        row, state = model.advance(torch.tensor([symbol], device=model.readout.weight.device), state)
        symbol = sampler.pick(row[0])
        yield symbol


@torch.no_grad()
def continued_together(model: SequenceModel, ids: Tensor, length: int, samplers: list[Sampler]) -> Iterator[list[int]]:
    """Do `continued` once for each sampler, in one batch; iterate over the next symbol of every one.

    Where the compiled loop runs each sampler has one of its own: on a CPU they are as fast as a batch.
    """
    logits, state = _heard(model, ids)
    symbols = [one.pick(logits) for one in samplers]
    yield symbols
    recipe = compiled(model)
    if recipe is not None and length > 1:
        pairs = zip(symbols, samplers, strict=True)
        streams = [_compiled(model, recipe, state, symbol, length - 1, one) for symbol, one in pairs]
        yield from map(list, zip(*streams, strict=True))
        return
    state = [one.expand(len(samplers), -1) for one in state]
    for _ in range(length - 1):
        rows, state = model.advance(torch.tensor(symbols, device=model.readout.weight.device), state)
        symbols = [one.pick(row) for one, row in zip(samplers, rows, strict=True)]
        yield symbols


def _heard(model: SequenceModel, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Read a prompt; return the logits `(V,)` after it and the state."""
    state, ids = None, ids[None].to(model.readout.weight.device)
    for some in ids.split(PROMPT, 1):
        logits, state = model.advance_all(some, state, last=True)
    assert state is not None
    return logits[0, 0], state


def compiled(model: SequenceModel) -> Recipe | None:
    """Return the formulas of a model's layers if the compiled loop can run it, else None.

    It can if all layers are of one kind and width and the modules are exactly those of a `SequenceModel`.
    """
    weight = model.readout.weight
    if not untouched(model, METHODS) or {name for name, _ in model.named_children()} != MODULES:
        return None
    if any(type(p) is not torch.nn.Parameter for p in model.parameters()) or torch.is_autocast_enabled("cpu"):
        return None
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()):
        return None
    stack = model.cells
    known = all(type(cell) in KINDS for cell in stack)
    if not known or {cell.hidden_size for cell in stack} != {weight.shape[1]}:
        return None
    recipes = {cell.recipe for cell in stack}
    return recipes.pop() if len(recipes) == 1 else None


def _compiled(
    model: SequenceModel, recipe: Recipe, state: list[Tensor], symbol: int, length: int, sampler: Sampler
) -> Iterator[int]:
    stack, table = [cell for cell in model.cells if isinstance(cell, KINDS)], model.embedding
    assert table is not None
    layers = [Layer(cell.w_ih, cell.b_ih, *cell.recurrent()) for cell in stack]
    loop = Continuation(
        recipe, stack[0].project(table.weight), layers, state, model.readout.weight, model.readout.bias,
        sampler.temperature, sampler.top_k, None if sampler.top_p == 1 else sampler.top_p,
    )  # fmt: skip
    while length > 0:
        count = min(CALL, length + length % 2)
        uniform = sampler.draw(count) if sampler.temperature else torch.zeros(count, dtype=torch.float64)
        found = loop.extend(symbol, uniform)[:length]
        for symbol in found:
            if symbol < 0:
                raise not_finite()
            yield symbol
        length -= count
