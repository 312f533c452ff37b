"""Recurrent models and layers as ONNX graphs: dynamic batch and time, ONNX's own recurrent operators."""

from typing import Any

import numpy as np
from torch import nn

from hbll_seq.cells import MinGRU, adopt_layers
from hbll_seq.errors import InputError
from hbll_seq.exporters.onnx_cells import run_cell
from hbll_seq.exporters.onnx_graph import Graph
from hbll_seq.exporters.parts import Part, needs_lengths
from hbll_seq.models.interlayer import Interlayer
from hbll_seq.models.recurrent import SequenceModel

TURN = [1, 0, 2]  # (B, T, D) to (T, B, D) and back


def model_graph(model: SequenceModel, part: Part) -> Any:
    """Return a recurrent model as an ONNX model: the whole sequence, or one time step with the state in and out."""
    g = Graph()
    steps = ["T"] if part == "whole" else []
    symbols = model.embedding is not None
    kind = np.int64 if symbols else np.float32
    x = g.take("x", kind, ["B", *steps] if symbols else ["B", *steps, model.input_size])
    lengths = g.take("lengths", np.int64, ["B"]) if part == "whole" and needs_lengths(model) else None
    cells = model.cells
    starts: list[str | None] = [None] * len(cells)
    if part == "step":
        starts = [g.take(f"state_{i}", np.float32, ["B", cell.state_size]) for i, cell in enumerate(cells)]
    h = x if model.embedding is None else g.one("Gather", g.constant(model.embedding.weight), x, axis=0)
    if part == "step":
        h = g.one("Unsqueeze", h, g.numbers(1))
    h, ends = _stack(g, model, h, starts, lengths)
    if part == "step" or model.task == "sequence":
        h = g.one("Squeeze", h, g.numbers(1)) if part == "step" else _last(g, model, h, lengths)
    out = g.linear(h, model.readout.weight, model.readout.bias)
    per_step = ["T"] if part == "whole" and model.task != "sequence" else []
    g.give(out, "out", np.float32, ["B", *per_step, model.output_size])
    for i, (end, cell) in enumerate(zip(ends, cells, strict=True)):
        if part == "step":
            g.give(end, f"next_state_{i}", np.float32, ["B", cell.state_size])
    return g.finish(type(model).__name__)


def _stack(
    g: Graph, model: SequenceModel, x: str, starts: list[str | None], lengths: str | None
) -> tuple[str, list[str]]:
    """Add all layers and what stands between them: `(B, T, D)` to `(B, T, width)`, and every cell's end."""
    counts = None if lengths is None else g.one("Cast", lengths, to=g.onnx.TensorProto.INT32)
    following, ends = iter(zip(model.cells, starts, strict=True)), []
    for layer, directions in enumerate(model.directions):
        in_time, outs = g.one("Transpose", x, perm=TURN), []
        for backward in range(directions):
            cell, start = next(following)
            out, end = run_cell(g, cell, in_time, start, counts if directions > 1 else None, backward=bool(backward))
            outs.append(g.one("Transpose", out, perm=TURN))
            ends.append(end)
        x = _between(g, model.interlayer, layer, len(model.directions) - 1, x, outs)
    return x, ends


def _between(g: Graph, between: Interlayer | None, layer: int, last: int, x: str, outs: list[str]) -> str:
    """Add projection, normalisation and residual connection, as `Interlayer.forward` does."""
    if between is not None and between.projections:
        maps: Any = between.projections[layer]
        outs = [g.linear(out, one.weight, one.bias) for out, one in zip(outs, maps, strict=True)]
    h = outs[0] if len(outs) == 1 else g.one("Concat", *outs, axis=-1)
    if between is not None and between.norms:
        norm = between.norms[layer]
        assert isinstance(norm, nn.LayerNorm)
        h = g.one("LayerNormalization", h, g.constant(norm.weight), g.constant(norm.bias), axis=-1, epsilon=norm.eps)
    if between is not None and between.skips:
        skip = between.skips[layer]
        h = g.one("Add", h, g.linear(x, skip.weight, None) if isinstance(skip, nn.Linear) else x)  # else the identity
    if between is not None and between.out is not None and layer == last:
        h = g.linear(h, between.out.weight, None)
    return h


def _last(g: Graph, model: SequenceModel, h: str, lengths: str | None) -> str:
    """Return `(B, d)` at each sequence's last time step, a backward direction's at the first."""
    assert lengths is not None
    at = g.one("Unsqueeze", g.one("Sub", lengths, g.numbers(1)), g.numbers(1))  # (B, 1)
    last = g.one("GatherND", h, at, batch_dims=1)
    if model.directions[-1] == 1:
        return last
    first = g.one("Gather", h, g.constant(np.array(0, dtype=np.int64)), axis=1)
    width = model.readout.in_features // 2
    half = g.numbers(width, width)
    forward, backward = g.add("Split", [last, half], 2, axis=-1)[0], g.add("Split", [first, half], 2, axis=-1)[1]
    return g.one("Concat", forward, backward, axis=-1)


def layer_graph(layer: nn.RNNBase | MinGRU) -> Any:
    """Return a recurrent layer as an ONNX model with the layer's own layouts and names: input, h_0, (c_0)."""
    if getattr(layer, "proj_size", 0):
        raise InputError("model", "an LSTM with proj_size", "none: ONNX has no such operator")
    g = Graph()
    first = bool(getattr(layer, "batch_first", False))
    batch_time: list[str | int] = ["B", "T"] if first else ["T", "B"]
    x = g.take("input", np.float32, [*batch_time, layer.input_size])
    stack = adopt_layers(layer, layer.input_size)
    count, d = sum(len(one.cells) for one in stack), layer.hidden_size
    pair = isinstance(layer, nn.LSTM)
    given = [g.take(name, np.float32, [count, "B", d]) for name in ("h_0", "c_0")[: 1 + pair]]
    h = g.one("Transpose", x, perm=TURN) if first else x
    number, ends = 0, []
    for one in stack:
        outs = []
        for backward, cell in enumerate(one.cells):
            index = g.constant(np.array(number, dtype=np.int64))
            states = [g.one("Gather", state, index, axis=0) for state in given]
            start = states[0] if not pair else g.one("Concat", *states[::-1], axis=-1)
            out, end = run_cell(g, cell, h, start, None, backward=bool(backward))
            outs.append(out)
            ends.append(end)
            number += 1
        h = outs[0] if len(outs) == 1 else g.one("Concat", *outs, axis=-1)
    out = g.one("Transpose", h, perm=TURN) if first else h
    g.give(out, "output", np.float32, [*batch_time, d * len(stack[-1].cells)])
    whole = g.one("Concat", *[g.one("Unsqueeze", end, g.numbers(0)) for end in ends], axis=0)
    lasts = g.add("Split", [whole, g.numbers(d, d)], 2, axis=-1)[::-1] if pair else [whole]
    for value, name in zip(lasts, ("h_n", "c_n"), strict=False):
        g.give(value, name, np.float32, [count, "B", d])
    return g.finish(type(layer).__name__)
