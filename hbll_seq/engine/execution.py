"""`Execute`: the way a model runs one of its recurrent layers, and the deployed chain, which is the default.

A model calls its layers through an `Execute`. In training a learning rule brings its own; everything else is the same
for every rule.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from hbll_seq.cells import Cell


class Execute(Protocol):
    """A function that runs one recurrent layer."""

    def __call__(
        self, layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run a layer.

        Args:
            layer: its number, counted from the input.
            cell: its cell.
            x: `(B, T, D)`.
            state: `(B, S)` start.
            lengths: `(B,)` valid time steps, or None for all. A causal chain may ignore them.
            end: whether the state after time step T is wanted.

        Returns:
            Outputs `(B, T, d)`, and with `end` the state `(B, S)` after time step T. Without it that may be None.
        """
        ...


def told(execute: Execute, engine: object, rows: Callable[[slice], Execute] | None = None) -> Execute:
    """Return `execute` with attributes for those who must know more of it.

    Args:
        execute: runs a layer.
        engine: what runs the layers; attribute `engine`.
        rows: the same for some of the sequences, if `execute` holds numbers of each; attribute `rows`.
    """
    whole: Any = execute
    whole.engine, whole.rows = engine, rows
    return execute


def sequential(
    layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the deployed chain, one time step after another; a causal chain needs no `lengths`.

    With gradient it is PyTorch's own layer under autograd; without, the cell's compiled roll if it has one.
    """
    run = cell.sequence if torch.is_grad_enabled() else cell.deployed
    return run(x, state)
