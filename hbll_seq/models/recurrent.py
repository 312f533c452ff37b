"""Recurrent sequence models: an embedding, a stack of cells, a linear read-out.

`forward` takes the execution of the recurrent layers as an argument. The default is the sequential chain, which is
deployed; in training the learning rule passes its own. Everything else is the same for every rule.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from hbll_seq import cells as c
from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.scalars import as_real, flag, integer, plain_number, shown
from hbll_seq.data.streaming import check_state
from hbll_seq.distributed.shards import current
from hbll_seq.engine.execution import Execute as Execute
from hbll_seq.engine.execution import sequential as sequential
from hbll_seq.errors import InputError
from hbll_seq.models.aliases import with_aliases
from hbll_seq.models.base import Objective, Task
from hbll_seq.models.in_steps import StepModel
from hbll_seq.models.interlayer import BetweenOptions, stand_between, with_dropout
from hbll_seq.models.label_names import check_names
from hbll_seq.models.registry import remember
from hbll_seq.nn.stack import run_stack

# Scale of a tied matrix, in units of a read-out's own. GRU of 256 units, 1,000 symbols of a text, 150 updates: held-out
# loss 4.80 nats at 1, 4.26 at 4; 100 smaller updates: 4.97 at 8, 5.21 at 17, where an embedding's own would be.
TIED = 4.0


@remember
class SequenceModel(StepModel):
    """A recurrent network over sequences (docs/method.md#the-problem).

    Args:
        input_size: number of symbols (integer input) or of features D (float input).
        output_size: classes or symbols V (cross-entropy), or values C (regression); or the names of V classes.
        hidden: state units d; `hidden_size` is understood too, and `num_layers` for `layers`.
        cell: "gru", "lstm", "elman" (or "rnn"), "mingru"; an `nn.GRU`/`nn.LSTM`/`nn.RNN`, adopted unchanged; or a
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
        dropout: share of the values after every layer that are set to zero in training: on the input of every layer
            after the first, and of the read-out. Streaming (`step`) has none.
        norm: "layer" for an `nn.LayerNorm` of every layer's outputs; None for none.
        residual: add a layer's input to its outputs, through a linear map where their widths differ.
        projection: width P of a linear map of every layer's outputs, the input of the next layer and of the read-out;
            with two directions one map to P / 2 each. None for none.
        bidirectional: every layer has a backward direction too, outputs side by side (named cells; an adopted module
            says it itself). Task "sequence" reads the forward direction at the last time step and the backward one at
            the first. Such a model cannot stream, carry a state on or predict the next input.
        tie_weights: the read-out's weight is the embedding's (Press and Wolf 2017); of symbols that are also the
            classes. Where the last layer's width is another than the embedding's, a linear map stands between them.

    After every layer come, in this order, projection, norm, residual connection and dropout.

    Attributes:
        rnn: the recurrent module itself, e.g. an `nn.GRU`; its state_dict is an ordinary one. With a `projection` to
            another width than that of a layer's outputs an `nn.ModuleList` of one module per layer.
        interlayer: modules between the layers, or None.
        directions: directions of every layer, 1 or 2.
    """

    @with_aliases
    def __init__(
        self,
        input_size: int,
        output_size: int | list[str],
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
        dropout: float = 0.0,
        norm: Literal["layer"] | None = None,
        residual: bool = False,
        projection: int | None = None,
        bidirectional: bool = False,
        tie_weights: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(output_size, list | tuple):
            if objective != "cross_entropy" or task == "next":
                raise InputError("output_size", "names for a model without classes", "an integer >= 1")
            self.label_names = check_names(output_size, "output_size")
            output_size = len(output_size)
        input_size, output_size = integer("input_size", input_size), integer("output_size", output_size)
        hidden, layers = integer("hidden", hidden), integer("layers", layers)
        embedding = None if embedding is None else integer("embedding", embedding, extra=", or None")
        timescale, seed = plain_number(timescale), plain_number(seed)
        for choice, chosen, allowed in (
            ("task", task, ("next", "step", "sequence")),
            ("objective", objective, ("cross_entropy", "mse")),
            ("input_kind", input_kind, ("symbols", "features")),
        ):
            if chosen not in allowed:
                raise InputError(choice, repr(chosen), f"one of {allowed}")
        if timescale is not None and not (as_real(timescale) or 0) > 1:
            raise InputError("timescale", shown(timescale), "a number of steps > 1, or None")
        options = BetweenOptions(dropout, norm, residual, projection, bidirectional).checked(task)
        if flag("tie_weights", tie_weights) and (input_kind != "symbols" or input_size != output_size):
            came = (
                f"True for {input_size} {'symbols' if input_kind == 'symbols' else 'features'}, {output_size} outputs"
            )
            raise InputError("tie_weights", came, "False: input and output are not the same symbols")
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
                self.rnn = c.build(
                    cell, width, hidden, layers, bidirectional=options.bidirectional, width=options.projection
                )
                if timescale is not None:
                    c.chrono_(self.rnn, timescale)
                self._config = dict(
                    input_size=input_size, output_size=output_size, hidden=hidden, cell=cell, layers=layers,
                    task=task, objective=objective, input_kind=input_kind, embedding=embedding,
                    timescale=timescale, seed=seed, **options._asdict(), tie_weights=bool(tie_weights),
                )  # fmt: skip
            else:
                self.rnn = cell
            self._width_in, self._width_between = width, options.projection
            layers_made = self._layers()
            self.directions = tuple(len(layer.cells) for layer in layers_made)
            self.interlayer = stand_between(
                layers_made, width, options, task=task, named=isinstance(cell, str), out=width if tie_weights else None
            )
            top = layers_made[-1].width if self.interlayer is None else self.interlayer.width
            self.readout = nn.Linear(top, output_size)
            if tie_weights and self.embedding is not None:
                with torch.no_grad():
                    self.readout.weight.mul_(TIED)
                self.embedding.weight = self.readout.weight

    def _layers(self) -> list[c.AdoptedLayer]:
        return c.adopt_layers(self.rnn, self._width_in, self._width_between)

    @property
    def cells(self) -> list[c.Cell]:
        """The stack of cells, one view per layer (and direction), made anew so that `load_state_dict` and `.to` take
        effect.
        """
        return [cell for layer in self._layers() for cell in layer.cells]

    @property
    def targets_in_time(self) -> bool:
        """See `TimeModel`; to a backward direction the blocks after a target are those before it."""
        return self.task != "sequence" and not self.bidirectional

    @property
    def bidirectional(self) -> bool:
        """Whether any layer has a backward direction."""
        return max(self.directions) > 1

    @property
    def bare(self) -> bool:
        """Whether all layers run forward, and nothing but an adopted module's dropout stands between them."""
        hooked = "between" in vars(self) or type(self).between is not SequenceModel.between
        return self.interlayer is None and not self.bidirectional and not hooked

    @property
    def drops(self) -> bool:
        """Whether a pass over whole sequences now draws dropout between layers."""
        return bool(self._rate()) or any(layer.rate for layer in self._layers())

    def _rate(self) -> float:
        return self.interlayer.dropout if self.interlayer is not None and self.training else 0.0

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
        """Predict from hidden outputs `(B, T, d)`: `(B, T, V)`, or `(B, V)` at each sequence's last time step.

        The second half of bidirectional outputs is then read at the first time step, where its direction ends.
        """
        if self.task == "sequence" and (shards := current()) is not None:
            half, ends = h.shape[-1] // 2, shards.at_ends(h)
            h = torch.cat([ends[:, :half], shards.at_start(h)[:, half:]], -1) if self.directions[-1] > 1 else ends
        elif self.task == "sequence":
            last = torch.full((h.shape[0],), h.shape[1]) if lengths is None else lengths
            first, half = h[:, 0], h.shape[-1] // 2
            h = h[torch.arange(h.shape[0], device=h.device), last.to(h.device) - 1]
            if self.directions[-1] > 1:
                h = torch.cat([h[:, :half], first[:, half:]], -1)
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
            InputError: a state that does not fit, or any of a bidirectional model.
        """
        cells = self.cells
        if state is not None or return_state:
            self.check_causal("state" if return_state is False else "return_state")
        if state is not None:
            state = check_state(state, [(len(x), cell.state_size) for cell in cells], self.readout.weight)
        lookup = lookup and not (return_state and lengths is not None) and not self.bidirectional
        lookup = lookup and not (self.interlayer is not None and self.interlayer.skips)  # these read embeddings
        if lookup and self.embedding is not None and c.SymbolCell.pays(cells[0], self.embedding.weight, x.numel()):
            c.check_symbols(x, len(self.embedding.weight))
            cells[0] = c.SymbolCell(cells[0], self.embedding.weight)
            h = x.unsqueeze(-1)
        else:
            h = self.embed(x)
        like = h if self.embedding is None else self.embedding.weight  # symbols do not have the dtype of a state
        following = iter(cells)
        with c.own_precision(like):
            h, ends = run_stack(
                [[next(following) for _ in range(count)] for count in self.directions], h,
                [None] * len(cells) if state is None else state, lengths, execute,
                between=with_dropout(self.between, self._layers(), self._rate()), ends=return_state,
            )  # fmt: skip
        out = self.read(h, lengths)
        return (out, ends) if return_state else out

    def between(self, layer: int, x: Tensor, out: Tensor) -> Tensor:
        """Return the next layer's (or read-out's) input `(..., width)`, before dropout.

        Args:
            layer: number of the layer just run, counted from 0.
            x: its input `(..., D)`.
            out: its outputs `(..., d)`, directions side by side.
        """
        return out if self.interlayer is None else self.interlayer(layer, x, out)


def _width(module: nn.Module) -> int:
    width = getattr(module, "input_size", None)
    if not isinstance(width, int):
        raise InputError("cell", f"{type(module).__name__} without input_size", "an int attribute, or `embedding=`")
    return width
