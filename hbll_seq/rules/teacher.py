"""The teacher of `smt`: a causal Transformer that gives every time step a memory, and a decoder of what follows it.

All memories of a window come from one parallel call. A memory is a state of every cell of the model, so it can be
compared with what a cell makes of the memory before it. The decoder shows a memory the true inputs after it and
predicts the targets there. A memory from which that succeeds is a predictive state
(docs/method.md#a-teachers-memories).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from hbll_seq.cells import Cell
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.transformer import TransformerBlock


class CausalBlock(TransformerBlock):
    """A causal block with PyTorch's fused attention: no `(T, T)` matrix is kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, causal=True)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True)


def _blocks(width: int, heads: int, count: int) -> nn.ModuleList:
    blocks = [CausalBlock(width, heads) for _ in range(count)]
    for block in blocks:
        block.initialise_(count)
    return nn.ModuleList(blocks)


class Teacher(nn.Module):
    """Encoder of the past and decoder of the future.

    Args:
        model: its input, output and cells are the teacher's, too; its weights are not.
        width: width of a token in encoder and decoder.
        layers: Transformer blocks of the encoder.
        decoder_layers: Transformer blocks of the decoder.
        heads: attention heads; they divide the width.
    """

    def __init__(self, model: SequenceModel, width: int, layers: int, decoder_layers: int, heads: int) -> None:
        super().__init__()
        symbols = model.input_kind == "symbols"
        kind = nn.Embedding if symbols else nn.Linear
        self.read = kind(model.input_size, width)
        self.encoder, self.decoder = (_blocks(width, heads, count) for count in (layers, decoder_layers))
        self.norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.memory = nn.Linear(width, sum(cell.state_size for cell in model.cells))
        self.recall = nn.Linear(self.memory.out_features, width)
        self.out = nn.Linear(width, model.output_size)
        self.width = width

    def memories(self, x: Tensor, cells: Sequence[Cell]) -> Tensor:
        """Return the memory after every time step, states of all cells side by side, `(B, T, sum of S)`.

        The visible part of a state goes through a tanh, so that it lies in the cell's range. The cell state of an LSTM
        has no range and stays linear.

        Args:
            x: `(B, T)` int64 symbols or `(B, T, D)` float features.
            cells: the cells of the model.
        """
        z = self.read(x) + positions(x.shape[1], self.width, x.device)
        for block in self.encoder:
            z = block(z)
        return torch.cat(
            [
                torch.cat([one[..., : cell.state_size - cell.hidden_size], torch.tanh(cell.output(one))], -1)
                for one, cell in zip(by_cell(self.memory(self.norm(z)), cells), cells, strict=True)
            ],
            -1,
        )

    def futures(self, memories: Tensor, x: Tensor, first: int, future: int) -> Tensor:
        """Predict the targets of every time step from `first` on, `(B, T - first, V)`.

        Every `future` time steps from `first` on stands a memory; the decoder sees that memory and the inputs after it,
        up to the time step of the target, and nothing from before it.

        Args:
            memories: see `memories`.
            x: the inputs that they are of.
            first: time step of the first memory, from 0.
            future: time steps from one memory to the next.
        """
        b, steps = x.shape[0], x.shape[1] - first
        z = self.read(x[:, first:])
        at = torch.arange(steps, device=x.device) % future == 0
        z = torch.where(at[:, None], self.recall(memories[:, first:]), z)
        z = pad(z, (0, 0, 0, -steps % future)).view(-1, future, self.width)
        z = z + positions(future, self.width, x.device)
        for block in self.decoder:
            z = block(z)
        out: Tensor = self.out(self.decoder_norm(z))
        return out.view(b, -1, out.shape[-1])[:, :steps]


def by_cell(memories: Tensor, cells: Sequence[Cell]) -> tuple[Tensor, ...]:
    """Cut memories `(..., sum of S)` into the states `(..., S)` of the cells."""
    return memories.split([cell.state_size for cell in cells], -1)


def positions(steps: int, width: int, device: torch.device) -> Tensor:
    """Return sines and cosines of the time step, `(steps, width)`, of any length."""
    pair = torch.arange(width, device=device) // 2
    angle = torch.arange(steps, device=device)[:, None] / 10000.0 ** (2 * pair / width)
    even = (torch.arange(width, device=device) % 2 == 0)[None]
    return torch.where(even, torch.sin(angle), torch.cos(angle)) / math.sqrt(2)


def uniformity(memories: Tensor) -> Tensor:
    """Return the log of the mean of exp(-2 d^2) over pairs of memories `(N, S)`, d their distance on the unit sphere.

    It is least where memories are spread evenly. Fewer than two memories have no pairs, and 0.
    """
    if len(memories) < 2:
        return memories.new_zeros(())
    unit = nn.functional.normalize(memories, dim=-1)
    squared = 2 - 2 * unit @ unit.T
    apart = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (-2 * squared[apart]).exp().mean().log()
