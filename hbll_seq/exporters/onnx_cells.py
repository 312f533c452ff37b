"""Recurrent cells as ONNX's own operators, `GRU`, `LSTM` and `RNN`; minGRU as a `Scan`.

ONNX orders gates otherwise than PyTorch: z, r, h for r, z, n (GRU), and i, o, f, c for i, f, g, o (LSTM). Its GRU is
PyTorch's with `linear_before_reset=1`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbll_seq.cells import Cell
from hbll_seq.cells.dense import DenseCell
from hbll_seq.cells.elman import ElmanCell
from hbll_seq.cells.gru import GRUCell
from hbll_seq.cells.lstm import LSTMCell
from hbll_seq.cells.mingru import MinGRUCell
from hbll_seq.errors import InputError
from hbll_seq.exporters.onnx_graph import Graph

ORDER: dict[type[Cell], tuple[str, tuple[int, ...]]] = {
    GRUCell: ("GRU", (1, 0, 2)),
    LSTMCell: ("LSTM", (0, 3, 1, 2)),
    ElmanCell: ("RNN", (0,)),
}


def run_cell(
    g: Graph, cell: Cell, x: str, start: str | None, lengths: str | None, *, backward: bool
) -> tuple[str, str]:
    """Add one cell over all time steps.

    Args:
        g: the graph.
        cell: of a known type.
        x: `(T, B, D)`.
        start: `(B, S)`; None for zero.
        lengths: `(B,)` int32; None for all time steps.
        backward: from each sequence's end to its start.

    Returns:
        Outputs `(T, B, d)` and the last state `(B, S)`.

    Raises:
        InputError: a cell that ONNX has no operator for.
    """
    if type(cell) is MinGRUCell:
        return _min_gru(g, cell, x, start, lengths, backward)
    if not isinstance(cell, DenseCell) or type(cell) not in ORDER:
        raise InputError("model", f"a {type(cell).__name__}", "layers gru, lstm, elman or mingru, or a .pt2 file")
    kind, order = ORDER[type(cell)]
    zeros = cell.w_hh.new_zeros(len(cell.w_hh))
    biases = [zeros if one is None else one for one in (cell.b_ih, cell.b_hh)]
    weights = [g.constant(_gates(one, order)[None]) for one in (cell.w_ih, cell.w_hh)]
    bias = g.constant(torch.cat([_gates(one, order) for one in biases])[None])
    states = _split(g, cell, start)
    options: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    if isinstance(cell, ElmanCell):
        options = {"activations": ["Relu" if cell.relu else "Tanh"]}
    out, *ends = g.add(
        kind, [x, *weights, bias, lengths or "", *states], outputs=3 if kind == "LSTM" else 2,
        hidden_size=cell.hidden_size, direction="reverse" if backward else "forward", **options,
    )  # fmt: skip
    direction = g.numbers(1)
    last = [g.one("Squeeze", one, g.numbers(0)) for one in ends]  # (B, d), for an LSTM h and c
    return g.one("Squeeze", out, direction), last[0] if len(last) == 1 else g.one("Concat", *last[::-1], axis=-1)


def _gates(weight: Tensor, order: Sequence[int]) -> Tensor:
    """Return the rows of each gate in ONNX's order."""
    parts = weight.detach().chunk(len(order))
    return torch.cat([parts[i] for i in order])


def _split(g: Graph, cell: DenseCell, start: str | None) -> list[str]:
    """Return the starts `(1, B, d)` of an operator: h, and c of an LSTM, whose state is `[c | h]`."""
    if start is None:
        return []
    up = g.one("Unsqueeze", start, g.numbers(0))
    if cell.state_size == cell.hidden_size:
        return [up]
    return g.add("Split", [up, g.numbers(cell.hidden_size, cell.hidden_size)], 2, axis=-1)[::-1]


def _min_gru(
    g: Graph, cell: MinGRUCell, x: str, start: str | None, lengths: str | None, backward: bool
) -> tuple[str, str]:
    """Add h' = (1 - z) h + z c as a `Scan` over its two gates, which need no state."""
    d, helper = cell.hidden_size, g.onnx.helper
    gate, candidate = g.add("Split", [g.linear(x, cell.w_ih, cell.b_ih), g.numbers(d, d)], 2, axis=-1)
    z = g.one("Sigmoid", gate)
    if lengths is not None and backward:  # padding comes first: it must leave the state as it is
        z = g.one("Mul", z, _inside(g, x, lengths))
    write, keep = g.one("Mul", z, candidate), g.one("Sub", g.constant(np.ones(1, dtype=np.float32)), z)
    if start is None:
        sizes = g.one("Slice", g.one("Shape", x), g.numbers(1), g.numbers(2))  # B
        shape = g.one("Concat", sizes, g.numbers(d), axis=0)
        start = g.one("ConstantOfShape", shape, value=g.onnx.numpy_helper.from_array(np.zeros(1, dtype=np.float32)))
    kind = g.onnx.TensorProto.FLOAT
    value = [helper.make_tensor_value_info(name, kind, ["B", d]) for name in ("h", "k", "w", "next", "out")]
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["k", "h"], ["kept"]),
            helper.make_node("Add", ["kept", "w"], ["next"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        "mingru_step", value[:3], value[3:],
    )  # fmt: skip
    way = int(backward)
    last, out = g.add(
        "Scan", [start, keep, write], 2, body=body, num_scan_inputs=2,
        scan_input_directions=[way, way], scan_output_directions=[way],
    )  # fmt: skip
    return out, last


def _inside(g: Graph, x: str, lengths: str) -> str:
    """Return `(T, B, 1)`: 1.0 at valid time steps, 0.0 in padding."""
    steps = g.one("Gather", g.one("Shape", x), g.constant(np.array(0, dtype=np.int64)), axis=0)
    zero, one = (g.constant(np.array(v, dtype=np.int64)) for v in (0, 1))
    at = g.one("Unsqueeze", g.one("Range", zero, steps, one), g.numbers(1))  # (T, 1)
    valid = g.one("Less", at, g.one("Cast", lengths, to=g.onnx.TensorProto.INT64))
    return g.one("Unsqueeze", g.one("Cast", valid, to=g.onnx.TensorProto.FLOAT), g.numbers(2))
