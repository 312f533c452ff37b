"""The faster way to run a layer without gradient: the package's compiled roll, or PyTorch's own layer.

Both give the same numbers, up to rounding. PyTorch runs `nn.GRU` and `nn.RNN` by some ten small operations a time step,
and `nn.LSTM` by oneDNN, in one call:

    cell              compiled roll                                     otherwise
    GRU, RNN          from the length where it makes up for preparing   PyTorch
    LSTM              a long sequence alone (few, with threads)         oneDNN
    minGRU            likewise from some length                         step by step
    a cell of yours   never                                             step by step

The roll first packs the recurrent weights. Then it saves PyTorch's overhead in every time step, the more the wider the
layer is and the more rows there are. Constants, in nanoseconds, are from `python -m benchmarks.inference` on an AMD
EPYC with AVX-512. They need not be exact: where both sides are close, either will do.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hbll_seq.kernels.outputs import outputs

if TYPE_CHECKING:
    from hbll_seq.cells.base import Cell

PREPARE = 50_000.0  # fixed cost of a roll above that of PyTorch's layer
PACK = 0.9  # of one recurrent weight
SAVED = {"gru": 10_000.0, "tanh": 4_000.0, "relu": 4_000.0, "mingru": 15_000.0}  # in a time step, by recipe
SAVED_WEIGHT = 0.05  # in a time step, for one recurrent weight
SAVED_ROW = 0.005  # in a time step, for one row and recurrent weight
ONEDNN_STEPS = (128, 32)  # least time steps for which a roll beats oneDNN's LSTM, on one thread and on several
ONEDNN_ROWS = (1, 4)  # most rows for that, likewise


def roll_pays(cell: "Cell", rows: int, steps: int, threads: int) -> bool:
    """Return whether a compiled roll of a cell with a recipe is faster than `Cell.sequence`."""
    recipe = cell.recipe
    if recipe is None or steps == 0 or rows == 0:
        return False
    if recipe.name not in SAVED:  # an LSTM
        return rows <= ONEDNN_ROWS[threads > 1] and steps >= ONEDNN_STEPS[threads > 1]
    weights = recipe.gates * cell.hidden_size**2
    saved = SAVED[recipe.name] + weights * (SAVED_WEIGHT + SAVED_ROW * rows)
    return steps * saved > PREPARE + PACK * weights


def deployed(cell: "Cell", x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs `(B, T, d)` and final state `(B, S)` without gradient, the faster way."""
    if transformed():
        return cell.sequence(x, state)
    # an exporter's trace has other tensors, and shapes that must not be compared
    if type(x) is not Tensor or type(state) is not Tensor or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return cell.sequence(x, state)
    pays = cell.bf16 or roll_pays(cell, x.shape[0], x.shape[1], torch.get_num_threads())
    if not pays or x.dtype != state.dtype or not cell.compiled(state):
        return cell.sequence(x, state)
    return _rounded(cell, x, state) if cell.bf16 else rolled(cell, x, state)


def transformed() -> bool:
    """Return whether a transform of `torch.func` or forward-mode differentiation runs: compiled rolls have no rule for
    it, and would lose tangents without a word.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def rolled(cell: "Cell", x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same by the compiled roll, for any cell with a recipe in float32 on the CPU."""
    assert cell.recipe is not None
    return outputs(cell.recipe, cell.projected, x, *cell.recurrent(), state)


CHUNK = 4096  # time steps whose activations a roll with bfloat16 products may hold at a time


def _rounded(cell: "Cell", x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same with bfloat16 products, by the rolls of training."""
    found = x.new_empty(x.shape[0], x.shape[1], cell.hidden_size)
    for i in range(0, x.shape[1], CHUNK):
        piece = x[:, i : i + CHUNK].transpose(0, 1).contiguous()
        with cell.roll(piece, state, keep=True, carry=False) as roll:
            assert roll.outputs is not None
            found[:, i : i + CHUNK] = roll.outputs.transpose(0, 1)
            state = roll.end
    return found, state
