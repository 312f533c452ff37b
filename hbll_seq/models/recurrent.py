"""Recurrent sequence models: an embedding, a stack of cells, a linear read-out.

`forward` takes the execution of the recurrent layers as an argument. The default is the sequential chain, which is
deployed; in training the learning rule passes its own. Everything else is the same for every rule.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from hbll_seq import cells as c
from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.streaming import check_state, check_step
from hbll_seq.engine.execution import Execute as Execute
from hbll_seq.engine.execution import sequential as sequential
from hbll_seq.errors import InputError
from hbll_seq.models.base import Objective, Task
from hbll_seq.models.over_time import TimeModel
from hbll_seq.models.registry import remember
from hbll_seq.nn.stack import run_stack


@remember
class SequenceModel(TimeModel):
    """A recurrent network over sequences (docs/method.md#the-problem).

    Args:
        input_size: number of symbols (integer input) or of features D (float input).
        output_size: classes or symbols V (cross-entropy), or values C (regression).
        hidden: state units d.
        cell: "gru", "lstm", "elman", "mingru"; an `nn.GRU`/`nn.LSTM`/`nn.RNN`, adopted unchanged; or a
            module with `forward(x, h) -> h` and an attribute `hidden_size` (an `nn.ModuleList` of these is a
            stack), optionally with `carry(x, h)`, the diagonal of dh'/dh.
        layers: depth of the stack (named cells only).
        task: "sequence" one target for the whole sequence, "step" one per time step, "next" the next input.
        objective: "cross_entropy" or "mse".
        input_kind: "symbols" `(B, T)` int64 or "features" `(B, T, D)` float.
        embedding: width of the symbol embedding; None: `hidden`, or the input size of an adopted module.
        timescale: longest memory of the chrono initialisation, in time steps; None keeps the module's own
            initialisation. Adopted modules are never re-initialised.
        seed: seed of the initialisation; the global random state is not touched.

    Attributes:
        rnn: the recurrent module itself, e.g. an `nn.GRU`; its state_dict is an ordinary one.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        hidden: int = 128,
        cell: str | nn.Module = "gru",
        layers: int = 1,
        task: Task = "step",
        objective: Objective = "cross_entropy",
        input_kind: Literal["symbols", "features"] = "symbols",
        embedding: int | None = None,
        timescale: float | None = 1000.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("input_size", input_size),
            ("output_size", output_size),
            ("hidden", hidden),
            ("layers", layers),
        ):
            if not isinstance(value, int) or value < 1:
                raise InputError(name, repr(value), "an integer >= 1")
        for choice, chosen, allowed in (
            ("task", task, ("next", "step", "sequence")),
            ("objective", objective, ("cross_entropy", "mse")),
            ("input_kind", input_kind, ("symbols", "features")),
        ):
            if chosen not in allowed:
                raise InputError(choice, repr(chosen), f"one of {allowed}")
        if timescale is not None and not timescale > 1:
            raise InputError("timescale", timescale, "a number of steps > 1, or None")
        self.input_size, self.output_size = input_size, output_size
        self.task, self.objective, self.input_kind = task, objective, input_kind
        self._config: dict[str, Any] | None = None
        with SeededDraws(seed):
            width = input_size
            self.embedding: nn.Embedding | None = None
            if input_kind == "symbols":
                width = embedding or (hidden if isinstance(cell, str) else _width(cell))
                self.embedding = nn.Embedding(input_size, width)
            if isinstance(cell, str):
                self.rnn = c.build(cell, width, hidden, layers)
                if timescale is not None:
                    c.chrono_(self.rnn, timescale)
                self._config = dict(
                    input_size=input_size, output_size=output_size, hidden=hidden, cell=cell, layers=layers,
                    task=task, objective=objective, input_kind=input_kind, embedding=embedding,
                    timescale=timescale, seed=seed,
                )  # fmt: skip
            else:
                self.rnn = cell
            self._width_in = width
            self.readout = nn.Linear(self.cells[-1].hidden_size, output_size)

    @property
    def cells(self) -> list[c.Cell]:
        """The stack of cells, one view per layer, made anew so that `load_state_dict` and `.to` take effect."""
        return c.adopt(self.rnn, self._width_in)

    def config(self) -> dict[str, Any]:
        """Return the constructor arguments as JSON-able values, for `save`.

        Raises:
            InputError: the recurrent module is the caller's own, so this package cannot rebuild it.
        """
        if self._config is None:
            raise InputError(
                "model", "a model around a module of your own", "a named cell; save its state_dict yourself"
            )
        return dict(self._config)

    def embed(self, x: Tensor) -> Tensor:
        """Return the inputs of the first cell, `(B, T, D)`."""
        return x if self.embedding is None else self.embedding(x)

    def read(self, h: Tensor, lengths: Tensor | None) -> Tensor:
        """Predict from hidden outputs `(B, T, d)`: `(B, T, V)`, or `(B, V)` at each sequence's last time step."""
        if self.task == "sequence":
            last = torch.full((h.shape[0],), h.shape[1]) if lengths is None else lengths
            h = h[torch.arange(h.shape[0], device=h.device), last.to(h.device) - 1]
        return self.readout(h)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, execute: Execute = sequential, *,
        state: list[Tensor] | None = None, return_state: bool = False, lookup: bool = False,
    ) -> Any:  # fmt: skip
        """Return predictions for a batch.

        Args:
            x: `(B, T)` int64 symbols or `(B, T, D)` float features.
            lengths: `(B,)` valid time steps, or None for all.
            execute: function that runs a recurrent layer; the default is the deployed chain.
            state: start `(B, S)` of every layer, as an earlier call or `step` returned it; None for zero. Gradients
                flow through it: detach it to cut them.
            return_state: also return the state of every layer at each sequence's end.
            lookup: pass symbols and the embedding to the first layer where that is faster.

        Returns:
            `(B, T, V)` for tasks "step" and "next", `(B, V)` for "sequence"; with `return_state` a pair of that and the
            state.

        Raises:
            InputError: a state that does not fit.
        """
        cells = self.cells
        if state is not None:
            state = check_state(state, [(len(x), cell.state_size) for cell in cells], self.readout.weight)
        lookup = lookup and not (return_state and lengths is not None)
        if lookup and self.embedding is not None and c.SymbolCell.pays(cells[0], self.embedding.weight, x.numel()):
            c.check_symbols(x, len(self.embedding.weight))
            cells[0] = c.SymbolCell(cells[0], self.embedding.weight)
            h = x.unsqueeze(-1)
        else:
            h = self.embed(x)
        like = h if self.embedding is None else self.embedding.weight  # symbols do not have the dtype of a state
        with c.own_precision(like):
            h, ends = run_stack(
                [[cell] for cell in cells], h, [None] * len(cells) if state is None else state, lengths, execute,
                between=self.between, ends=return_state,
            )  # fmt: skip
        out = self.read(h, lengths)
        return (out, ends) if return_state else out

    def between(self, layer: int, x: Tensor, out: Tensor) -> Tensor:
        """Return the input of the layer after layer number `layer`, from its input `x` and outputs `out`."""
        return out

    def step(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Advance one time step: from an input `(B,)` or `(B, D)` and the state to a prediction `(B, V)` and the new
        state.

        Raises:
            InputError: an input that the model cannot read, or a state that no earlier `step` can have returned.
        """
        x = check_step(x, self)
        if state is not None:
            state = check_state(state, [(len(x), cell.state_size) for cell in self.cells], self.readout.weight)
        return self.advance(x, state)

    def advance(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Do `step` without its checks, for loops over checked inputs."""
        h, cells, grad = self.embed(x), self.cells, torch.is_grad_enabled()
        before = state if state is not None else [cell.initial(h.shape[0], h) for cell in cells]
        after = []
        with c.own_precision(h):
            for cell, s in zip(cells, before, strict=True):
                s = cell.step(h, s) if grad else cell.deployed_step(h, s)
                h = cell.output(s)
                after.append(s)
        return self.readout(h), after

    def advance_all(
        self, x: Tensor, state: list[Tensor] | None = None, *, last: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Do `advance` for all time steps of `(B, T)` or `(B, T, D)`, without gradient and faster than in turn.

        Returns:
            Predictions `(B, T, V)`, only those of the last time step `(B, 1, V)` with `last`; and the new state.
        """
        with torch.no_grad():
            if type(self).advance is not SequenceModel.advance or "advance" in vars(self):
                out = []
                for now in x.unbind(1):
                    one, state = self.advance(now, state)
                    out.append(one)
                return torch.stack(out[-1:] if last else out, 1), state or []
            h = self.embed(x)
            before = state if state is not None else [cell.initial(h.shape[0], h) for cell in self.cells]
            after = []
            with c.own_precision(h):
                for cell, s in zip(self.cells, before, strict=True):
                    h, s = cell.deployed(h, s)
                    after.append(s)
            return self.readout(h[:, -1:] if last else h), after


def _width(module: nn.Module) -> int:
    width = getattr(module, "input_size", None)
    if not isinstance(width, int):
        raise InputError("cell", f"{type(module).__name__} without input_size", "an int attribute, or `embedding=`")
    return width
