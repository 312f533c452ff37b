"""`StepModel`: a recurrent model that reads one time step, or some, at a time, in constant memory.

`SequenceModel` is the only one; it adds the network and the whole sequence.
"""

import torch
from torch import Tensor, nn

from hbll_seq import cells as c
from hbll_seq.data.streaming import check_state, check_step
from hbll_seq.errors import InputError
from hbll_seq.models.over_time import TimeModel


class StepModel(TimeModel):
    """The part of a recurrent model that streams.

    Attributes:
        readout: from hidden outputs to predictions.
    """

    readout: nn.Linear

    @property
    def bidirectional(self) -> bool:
        """Whether any layer has a backward direction."""
        raise NotImplementedError

    def embed(self, x: Tensor) -> Tensor:
        """Return the inputs of the first cell."""
        raise NotImplementedError

    def between(self, layer: int, x: Tensor, out: Tensor) -> Tensor:
        """Return the next layer's (or read-out's) input."""
        raise NotImplementedError

    def check_causal(self, what: str) -> None:
        """Refuse what needs the past alone.

        Args:
            what: the argument or method that needs it.

        Raises:
            InputError: the model is bidirectional.
        """
        if self.bidirectional:
            raise InputError(
                what, "a bidirectional model, whose backward direction starts at the end", "bidirectional=False"
            )

    def step(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Advance one time step: from an input `(B,)` or `(B, D)` and the state to a prediction `(B, V)` and the new
        state, without dropout.

        Raises:
            InputError: an input that the model cannot read, a state that no earlier `step` can have returned, or a
                bidirectional model.
        """
        self.check_causal("step")
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
            for layer, (cell, s) in enumerate(zip(cells, before, strict=True)):
                s = cell.step(h, s) if grad else cell.deployed_step(h, s)
                h = self.between(layer, h, cell.output(s))
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
            if type(self).advance is not StepModel.advance or "advance" in vars(self):
                found = []
                for now in x.unbind(1):
                    one, state = self.advance(now, state)
                    found.append(one)
                return torch.stack(found[-1:] if last else found, 1), state or []
            h = self.embed(x)
            before = state if state is not None else [cell.initial(h.shape[0], h) for cell in self.cells]
            after = []
            with c.own_precision(h):
                for layer, (cell, s) in enumerate(zip(self.cells, before, strict=True)):
                    out, s = cell.deployed(h, s)
                    h = self.between(layer, h, out)
                    after.append(s)
            return self.readout(h[:, -1:] if last else h), after
