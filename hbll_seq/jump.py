"""The learned forward message: a cheap affine model of a block, trained by its own local loss.

Design section 3, line 1. Per step, from the cell's input u_t alone,

    a_t = sigmoid(W_a u_t + c)        b_t = (1 - a_t) tanh(W_b u_t)

and m -> a_t * m + b_t composes associatively, so a block's jump is (a, b) with

    a = prod_t a_t        b = sum_t b_t prod_{s>t} a_s

(the products as exponentials of sums of log a_t <= 0: no overflow, any length). A prefix scan of the
jumps gives a guess of every boundary before any cell has run, and a is a carry that has
seen the data. The jump's objective is |a * stop(h_i) + b - stop(F_i(h_i))|^2, local to the block.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.cells import Cell


class Jump(nn.Module):
    """Jump encoder of one layer; trained beside the model, never deployed.

    Args:
        cell: the layer's cell, for its sizes.
        generator: source of the initial weights.
    """

    def __init__(self, cell: Cell, generator: torch.Generator) -> None:
        super().__init__()
        d, m = cell.input_size, cell.memory_size
        draw = torch.rand(2, m, d, generator=generator) * 2 - 1
        self.gate = nn.Parameter(draw[0] * d**-0.5)
        self.write = nn.Parameter(draw[1] * d**-0.5)
        # time constants log-uniform over 1 .. 1000 steps, like the cells' own gates
        self.bias = nn.Parameter(torch.rand(m, generator=generator) * 6.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Jumps of all blocks: `(K, n, B, D) -> a, b` each `(n, B, M)`."""
        drive = functional.linear(x, self.gate, self.bias)  # (K, n, B, M)
        log_a = functional.logsigmoid(drive)
        b = torch.sigmoid(-drive) * torch.tanh(functional.linear(x, self.write))
        total = log_a.sum(0)
        after = total - log_a.cumsum(0)  # sum over the steps after t
        return total.exp(), (b * after.exp()).sum(0)

    def objective(self, a: Tensor, b: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Mean squared error of the jumps on solved blocks: start, end `(n, B, M)` constants."""
        return (a * start.detach() + b - end.detach()).square().mean()
