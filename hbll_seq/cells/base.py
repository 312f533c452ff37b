"""The interface of a recurrent cell: step, roll and carry.

A cell maps the input of one time step and the old state to the new state. The state is one
vector of S numbers, laid out as `[memory | visible]`:

* GRU, Elman, minGRU, user cells: everything is memory, and the hidden output *is* the state (S = d).
* LSTM: the memory is the cell state c, the visible part the hidden output h (S = 2d).

The *carry* is the diagonal of one time step's Jacobian on the memory, dm'_j/dm_j. Its product over a
block, G, is the fraction of a change at the block's start that survives to its end. The *link* is the
derivative of the visible part by the memory after a time step (LSTM: o * (1 - tanh(c)^2)).
Together they are the linear model of a block for the consistency sweeps and the feedback
messages (docs/method.md#solving-for-the-states-consistency-sweeps); a poor carry costs sweeps, never correctness.

A cell is a light view on parameters that live in an ordinary module (`nn.GRU` and the like), so a
trained model is a plain torch module and nothing needs copying back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional

from hbll_seq.cells import inference
from hbll_seq.cells.autograd_rolls import AutogradRoll
from hbll_seq.kernels.recipes import Recipe
from hbll_seq.kernels.roll import fused

if TYPE_CHECKING:
    from hbll_seq.cells.fused import CellRoll


class Advance(NamedTuple):
    """The result of one time step: new state `(N, S)`, carry `(N, M)` and link `(N, d)` (None without visible part)."""

    state: Tensor
    carry: Tensor
    link: Tensor | None


class Roll(Protocol):
    """A roll of K time steps of N independent rows, with its vector-Jacobian products.

    The maker of a roll must release it when done, or use it in a `with` block. The release gives its work buffers to
    other rolls. Any later use is a `RuntimeError`; end, carry and link that were read before stay valid.

    Attributes:
        outputs: `(K, N, d)` hidden outputs, gone with the release, or None when rolled with `keep=False`.
        end: `(N, S)` state after the last step.
        carry: `(N, M)` product of the steps' carries, G.
        link: `(N, d)` link of the last step, or None.
        step_by_step: True if each time step launches its own kernels; then a CUDA graph saves time (`captured`).
    """

    step_by_step: bool
    outputs: Tensor | None
    end: Tensor
    carry: Tensor
    link: Tensor | None

    def backward_state(self, dout: Tensor | None, dend: Tensor | None) -> Tensor:
        """Return the gradient `(N, S)` on the start state from those on outputs and end; may be called again."""
        ...

    def gradients(self, inputs: bool = True) -> tuple[Tensor | None, list[Tensor | None]]:
        """Return the gradients on the input `(K, N, D)` (if wanted) and on the parameters, for the latest
        `backward_state`.
        """
        ...

    def release(self) -> None:
        """Give back work buffers and activations; see `kernels.buffers.Borrower`."""
        ...

    def __enter__(self) -> Self:
        """Return the roll; it is released at the end of the `with` block."""
        ...

    def __exit__(self, *error: object) -> None:
        """Release the roll."""
        ...


class Cell(ABC):
    """The cell of one recurrent layer: a view on the parameters of an ordinary torch module.

    Attributes:
        input_size: D.
        hidden_size: d.
        state_size: S; M + d for an LSTM, d otherwise.
        memory_size: M, which is d in every cell of the package.
        bound: states that start inside [-bound, bound] stay there by construction (1 for tanh cells), or None.
        recipe: formulas of the compiled roll, or None without one.
        bf16: whether the compiled roll rounds the factors of its products to bfloat16.
        compiled_roll: the class of its compiled rolls, or None.
        product: function for `W x + b` in `project` and `advance`; `mixed` replaces it.
    """

    input_size: int
    hidden_size: int
    state_size: int
    memory_size: int
    bound: float | None = None
    recipe: Recipe | None = None
    bf16: bool = False
    compiled_roll: "type[CellRoll] | None" = None
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = staticmethod(functional.linear)

    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """Return the layer's parameters in a fixed order; some may be computed from others (parametrizations)."""

    @abstractmethod
    def advance(self, p: Tensor, state: Tensor) -> Advance:
        """Make one differentiable time step from a projected input `(N, P)` and state `(N, S)`."""

    def project(self, x: Tensor) -> Tensor:
        """Compute the part of a time step that needs no state, for any leading shape: `(..., D) -> (..., P)`."""
        return x

    def projected(self, x: Tensor) -> Tensor:
        """Return `project(x)` without gradient, if possible in a work buffer (`kernels.buffers`)."""
        with torch.no_grad():
            return self.project(x)

    def projects_first(self) -> bool:
        """Return whether to project a whole layer's input once, before repeated rolls."""
        return True

    def recurrent(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the recurrent weights `(gates * d, d)` and bias of a cell with a recipe."""
        return None, None

    def output(self, state: Tensor) -> Tensor:
        """Return the hidden output `(..., d)` of a state `(..., S)`."""
        return state[..., self.state_size - self.hidden_size :]

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the new state from input `x` `(N, D)` and `state` `(N, S)`."""
        return self.advance(self.project(x), state).state

    def clamp(self, state: Tensor, start: Tensor) -> Tensor:
        """Return `state` `(..., B, S)` limited to the range that the cell can produce from `start` `(B, S)`.

        A given start may lie outside the bound, and a GRU then stays there: its new state lies between its old one and
        the bound.
        """
        if self.bound is None:
            return state
        m = self.state_size - self.hidden_size
        if m == 0:
            limit = start.abs().clamp(min=self.bound)
            return torch.minimum(torch.maximum(state, -limit), limit)
        return torch.cat([state[..., :m], state[..., m:].clamp(-self.bound, self.bound)], -1)

    def initial(self, rows: int, like: Tensor) -> Tensor:
        """Return the zero state `(rows, S)` with the dtype and device of `like`."""
        return like.new_zeros(rows, self.state_size)

    def sequence(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs `(B, T, d)` and final state of the sequential chain, differentiable: plain BPTT."""
        outputs = []
        # unbind, not indexing: the backward of p[:, t] fills a whole (B, T, P) with zeros for every t
        for one in self.project(x).unbind(1):
            state = self.advance(one, state).state
            outputs.append(self.output(state))
        return torch.stack(outputs, 1), state

    def deployed(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do `sequence` without gradient, by a compiled roll where that is faster (`cells.inference`)."""
        if not torch.is_grad_enabled():  # the context takes microseconds
            return inference.deployed(self, x, state)
        with torch.no_grad():
            return inference.deployed(self, x, state)

    def deployed_step(self, x: Tensor, state: Tensor) -> Tensor:
        """Do `step` without gradient, faster where a cell can."""
        with torch.no_grad():
            return self.step(x, state)

    def run(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do `sequence` with time first, x `(K, N, D)` -> outputs `(K, N, d)`, final state; for cells with a fast
        version.
        """
        out, end = self.sequence(x.transpose(0, 1), state)
        return out.transpose(0, 1), end

    def block_carry(self, p: Tensor, start: Tensor, outputs: Tensor, end: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return carry `(N, M)` and link of a rolled block, for cells whose `roll` is a `SequenceRoll`.

        Args:
            p: `(K, N, P)` projected inputs.
            start: `(N, S)`.
            end: `(N, S)`.
            outputs: `(K, N, d)`.
        """
        raise TypeError(f"{type(self).__name__} rolls step by step and knows its carry already")

    def roll(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None = None, carry: bool = True
    ) -> Roll:
        """Roll K time steps of N rows: compiled if the cell has it, else through its module.

        Args:
            x: `(K, N, D)`.
            state: `(N, S)`.
            keep: False if only ends are wanted.
            projected: `project(x)` `(K, N, P)` without gradient, if the caller rolls the same x repeatedly.
            carry: False if the roll's carry and link are not read (they may then be anything).
        """
        if self.compiled_roll is not None and self.compiled(state):
            return self._roll_compiled(x, state, keep=keep, projected=projected, carry=carry)
        return self._roll_uncompiled(x, state, keep=keep, projected=projected, carry=carry)

    def compiled(self, like: Tensor) -> bool:
        """Return whether rolls of tensors like `like` are compiled."""
        return self.recipe is not None and fused(like)

    def whole(
        self, x: Tensor, state: Tensor, *, keep: bool, every: int, projected: Tensor | None = None
    ) -> "CellRoll | None":
        """Roll T time steps in order in one compiled call, with the state after every `every` steps; None without such
        a call.

        Arguments as for `roll`. Its backward can discount the gradients on these states (`FusedRoll.backward_state`).
        """
        if self.compiled_roll is None or not self.compiled(state):
            return None
        return self._roll_compiled(x, state, keep=keep, projected=projected, carry=False, every=every)

    def _roll_compiled(
        self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool, every: int | None = None
    ) -> "CellRoll":
        """Roll by the cell's `compiled_roll`."""
        assert self.compiled_roll is not None
        return self.compiled_roll(self, x, projected, state, keep=keep, carry=carry, every=every)

    def _roll_uncompiled(self, x: Tensor, state: Tensor, *, keep: bool, projected: Tensor | None, carry: bool) -> Roll:
        """Roll on any device and in any dtype."""
        return AutogradRoll(self, x, state, keep=keep, projected=projected)
