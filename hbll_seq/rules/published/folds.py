"""The paper's tree over time: states by folding whole blocks of input, level by level (arXiv:2606.21497, HBLL-RNN).

State h_n (after n steps) has height d, the number of factors of two in n. It folds the block of 2^d inputs before it,
flattened to one vector, into the state at the block's start:

    h_n = f_d(h_{n - 2^d}, x_{n - 2^d : n})

All states of one height are one batched call, once the heights above are known: log2 T calls for T states. f_0 is the
model's own cell, which is deployed. The read-out after step n is one step of f_0 from the tree state h_{n-1}, which is
at most log2 n folds deep.
"""

from typing import cast

import torch
from torch import Tensor, nn

from hbll_seq.cells import Cell, adopt
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel

KINDS = (nn.GRU, nn.LSTM, nn.RNN)


class Folds(nn.Module):
    """Cells of every height above 0, beside a one-layer model.

    Args:
        model: a `SequenceModel` of one GRU, LSTM or Elman layer.
        longest: steps of the longest sequence, T.
        shared: True if the cells share the model's recurrent weights and biases and differ in their input maps only.

    Raises:
        InputError: another cell, several layers, or a model with more than its layer.
    """

    def __init__(self, model: SequenceModel, longest: int, shared: bool) -> None:
        super().__init__()
        rnn = model.rnn
        if not isinstance(rnn, KINDS) or rnn.num_layers != 1:
            what = type(rnn).__name__ + (f" of {rnn.num_layers} layers" if isinstance(rnn, KINDS) else "")
            raise InputError(
                "model", what, 'one layer of cell "gru", "lstm" or "elman": the published rule has no more'
            )
        if not model.bare:
            raise InputError(
                "model", "one with norm, residual, projection, dropout or a backward direction", "one without any"
            )
        self.longest, self.shared = longest, shared
        self.heights = (longest - 1).bit_length()  # 0 .. heights - 1
        self.cells = nn.ModuleList()
        for d in range(1, self.heights):
            extra = {"nonlinearity": rnn.nonlinearity} if isinstance(rnn, nn.RNN) else {}
            fold = type(rnn)(rnn.input_size << d, rnn.hidden_size, batch_first=True, bias=rnn.bias, **extra)
            names = [name for name, _ in fold.named_parameters() if "weight_ih" not in name]
            for name in names:
                if shared:
                    setattr(fold, name, getattr(rnn, name))
                else:
                    getattr(fold, name).data.copy_(getattr(rnn, name).detach())  # chrono biases too
            self.cells.append(fold)
        self.to(next(rnn.parameters()))

    def own_parameters(self, model: SequenceModel) -> list[nn.Parameter]:
        """Return the parameters that are not the model's."""
        theirs = {id(p) for p in model.parameters()}
        return [p for p in self.parameters() if id(p) not in theirs]

    def cell(self, model: SequenceModel, height: int) -> Cell:
        """Return f_d of a height d; f_0 is the model's cell."""
        if height == 0:
            return model.cells[0]
        fold = cast(nn.Module, self.cells[height - 1])
        return adopt(fold, int(fold.input_size))[0]  # type: ignore[arg-type]  # an int on all of KINDS

    def fold(self, model: SequenceModel, height: int, x: Tensor, state: Tensor, starts: list[int]) -> Tensor:
        """Fold the blocks of 2^height steps at `starts` into `state` `(m, B, S)`: the states after them, `(m, B, S)`.

        `x` is `(B, T, D)`; a block that reaches beyond the end of x is filled with zeros.
        """
        width = 1 << height
        short = max(starts) + width - x.shape[1]
        if short > 0:
            x = nn.functional.pad(x, (0, 0, 0, short))
        blocks = torch.stack([x[:, s : s + width].flatten(1) for s in starts])  # (m, B, width * D)
        m, b, s = state.shape
        return self.cell(model, height).step(blocks.flatten(0, 1), state.reshape(m * b, s)).view(m, b, s)

    def states(self, model: SequenceModel, x: Tensor) -> tuple[Tensor, dict[int, tuple[list[int], Tensor]]]:
        """Compute the tree states of `x` `(B, T, D)`.

        Returns:
            `(T, B, S)` h_0 .. h_{T-1} without gradient; and by height the nodes and their states `(m, B, S)`,
            each with the gradient of its own fold only.
        """
        b, t, _ = x.shape
        if t > self.longest:
            raise InputError("x", f"{t} steps", f"at most longest={self.longest}")
        cell = model.cells[0]
        all_states = cell.initial(b, x).repeat(t, 1, 1)  # (T, B, S)
        by_height: dict[int, tuple[list[int], Tensor]] = {}
        for d in range((t - 1).bit_length() - 1, -1, -1):
            nodes = list(range(1 << d, t, 2 << d))
            if not nodes:
                continue
            starts = [n - (1 << d) for n in nodes]
            # a copy of the parents: the table they come from is written to below
            h = self.fold(model, d, x, all_states[starts].clone(), starts)
            by_height[d] = (nodes, h)
            all_states[nodes] = h.detach()
        return all_states, by_height

    def read(self, model: SequenceModel, x: Tensor, states: Tensor) -> Tensor:
        """Take one step of f_0 from every tree state `(T, B, S)`: hidden outputs of the tree read-out, `(B, T, d)`."""
        cell = model.cells[0]
        t, b, s = states.shape
        after = cell.step(x.transpose(0, 1).reshape(t * b, -1), states.reshape(t * b, s))
        return cell.output(after).view(t, b, -1).transpose(0, 1)
