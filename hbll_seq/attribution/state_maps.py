"""A trained network as maps between states, one after the other: knockouts change a state and follow it.

Over time a map is a block of steps and a state stands at a boundary between blocks. Over depth a map is a module and a
state is its output. No graph is kept.
"""

from typing import Protocol

import torch
from torch import Tensor

from hbll_seq.attribution.background import Others
from hbll_seq.attribution.withheld import StandIn
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel


class StateMaps(Protocol):
    """A network as n maps: state i + 1 is map i of state i.

    Attributes:
        count: n.
        states: `(n+1, B, S)`, the first given, the last read out.
        source: `(S,)` int64; the carry of entry s at a map's end acts on the change of entry `source[s]` at its start.
    """

    count: int
    states: Tensor
    source: Tensor

    def advance(self, numbers: list[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """Apply map `numbers[k]` to states `[k]` of `(m, R, B, S)`; return ends and carries, both `(m, R, B, S)`."""
        ...

    def withheld(self, spans: list[tuple[int, int]], by: StandIn) -> Tensor:
        """Replace the input of maps i..j-1 of each span `(i, j)`, alone; return the states after map j-1, `(m, B, S)`.

        Only the last span may be shorter than the others.
        """
        ...

    def read(self, states: Tensor) -> Tensor:
        """Predict from states `(..., S)` after the last map."""
        ...


class TimeMaps:
    """The blocks of a recurrent model; a state holds all layers' states side by side.

    The read-out of a model that is not `bare` reads more than the last layer's state. So there a state holds also what
    is read, behind all others; nothing of it is carried on.

    Args:
        model: in float64.
        x: `(B, T)` or `(B, T, D)`.
        block: steps a block K; the last one may be shorter.
        others: what "mean" and "swap" take; None for the mean of x and its other sequences.
    """

    def __init__(self, model: SequenceModel, x: Tensor, block: int, others: Others | None = None) -> None:
        self.model, self.cells, self.block, self._others = model, model.cells, block, others
        self._read = 0 if model.bare else model.readout.in_features  # entries of a state that are read, and no more
        self._donor: tuple[int, Tensor] | None = None  # the last one, embedded
        with torch.no_grad():
            self.x = model.embed(x).transpose(0, 1)  # (T, B, D)
        self.steps, self.rows = self.x.shape[0], self.x.shape[1]
        self.count = -(-self.steps // block)
        self.source = self._source()
        states = [self._initial()]
        for i in range(self.count):
            states.append(self.advance([i], states[-1][None, None])[0][0, 0])
        self.states = torch.stack(states)

    @torch.no_grad()
    def _initial(self) -> Tensor:
        """Return the state `(B, S)` before the first step; what is read follows from an input of zeros."""
        states, h = [cell.initial(self.rows, self.x) for cell in self.cells], torch.zeros_like(self.x[0])
        if self._read:
            for layer, cell in enumerate(self.cells):
                h = self.model.between(layer, h, cell.output(states[layer]))
            states.append(h)
        return torch.cat(states, 1)

    def _source(self) -> Tensor:
        parts, start = [], 0
        for cell in self.cells:
            memory = torch.arange(start, start + cell.memory_size)
            parts += [memory, memory[: cell.state_size - cell.memory_size]]  # an LSTM's output follows its memory
            start += cell.state_size
        parts.append(torch.arange(start, start + self._read))
        return torch.cat(parts).to(self.x.device)

    def inputs(self, numbers: list[int]) -> Tensor:
        """Return the inputs of blocks of equal length, `(K, m, B, D)`."""
        return self._blocks(self.x, numbers)

    def _blocks(self, x: Tensor, numbers: list[int]) -> Tensor:
        return torch.stack([x[i * self.block : (i + 1) * self.block] for i in numbers], 1)

    def advance(self, numbers: list[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """See `StateMaps`."""
        if len(numbers) > 1 and numbers[-1] == self.count - 1 and self.steps % self.block:  # the last one is shorter
            parts = [self.advance(numbers[:-1], states[:-1]), self.advance(numbers[-1:], states[-1:])]
            return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        end, carry, _ = self._roll(self.inputs(numbers), states, outputs=False)
        return end, carry

    def roll(self, x: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Roll inputs `(K, m, B, D)` from states `(m, R, B, S)`: ends, carries, and outputs `(K, m, R, B, d)`."""
        end, carry, out = self._roll(x, states, outputs=True)
        assert out is not None
        return end, carry, out

    @torch.no_grad()
    def _roll(self, x: Tensor, states: Tensor, *, outputs: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        k, m, b, d = x.shape
        r = states.shape[1]
        h = x.unsqueeze(2).expand(k, m, r, b, d).reshape(k, m * r * b, d)
        flat = states.reshape(m * r * b, -1)
        ends, carries, start = [], [], 0
        for layer, cell in enumerate(self.cells):
            keep = outputs or bool(self._read) or layer + 1 < len(self.cells)
            state = flat[:, start : start + cell.state_size].contiguous()
            with cell.roll(h, state, keep=keep) as roll:
                ends.append(roll.end)
                carries.append(roll.carry if roll.link is None else torch.cat([roll.carry, roll.link * roll.carry], 1))
                if keep:
                    assert roll.outputs is not None
                    h = self.model.between(layer, h, roll.outputs.clone())  # may be a work buffer
            start += cell.state_size
        if self._read:
            ends.append(h[-1])
            carries.append(torch.zeros_like(h[-1]))
        shape = (m, r, b, -1)
        out = h.view(k, *shape) if outputs else None
        return torch.cat(ends, 1).view(shape), torch.cat(carries, 1).view(shape), out

    def substitute(self, numbers: list[int], by: StandIn) -> Tensor:
        """Return what replaces the inputs of blocks of equal length ("swap", "mean", "zero"), `(K, m, B, D)`."""
        if by.how == "swap":
            return self._blocks(self._swapped(by.shift), numbers)
        if by.how == "zero":
            fill = torch.zeros_like(self.x[0, 0])
        else:
            fill = self.x.mean((0, 1)) if self._others is None else self._others.mean
        return fill.expand_as(self.inputs(numbers))

    def _swapped(self, shift: int) -> Tensor:
        """Return the inputs of every sequence's donor, `(T, B, D)`."""
        if self._donor is None or self._donor[0] != shift:
            found = self.x.roll(shift, 1) if self._others is None else self._others.donor(shift)
            self._donor = shift, found
        return self._donor[1]

    def withheld(self, spans: list[tuple[int, int]], by: StandIn) -> Tensor:
        """See `StateMaps`."""
        states = torch.stack([self.states[i] for i, _ in spans]).unsqueeze(1)
        if by.how == "skip":
            return states[:, 0]
        for q in range(max(j - i for i, j in spans)):
            active = [i + q for i, j in spans if i + q < j]
            short = active[-1] == self.count - 1 and bool(self.steps % self.block)
            groups = [active[:-1], active[-1:]] if short and len(active) > 1 else [active]
            new, at = [], 0
            for group in groups:
                part = states[at : at + len(group)]
                new.append(self._roll(self.substitute(group, by), part, outputs=False)[0])
                at += len(group)
            states = torch.cat([*new, states[at:]])
        return states[:, 0]

    @torch.no_grad()
    def read(self, states: Tensor) -> Tensor:
        """Predict `(..., V)` from states `(..., S)`."""
        out: Tensor = self.model.readout(self.visible(states))
        return out

    def visible(self, states: Tensor) -> Tensor:
        """Return what the read-out reads of states `(..., S)`, `(..., d)`."""
        if self._read:
            return states[..., -self._read :]
        top = self.cells[-1]
        return top.output(states[..., states.shape[-1] - top.state_size :])


class DepthMaps:
    """The modules of a layered model; a withheld module has its input as its output.

    Args:
        model: in float64 and evaluation mode.
        x: the model's input.
    """

    def __init__(self, model: Layered, x: Tensor) -> None:
        self.model = model
        self.count = len(model.layers)
        with torch.no_grad():
            states = [model.embed(x)]
            self.shape = states[0].shape[1:]
            for module in model.layers:
                states.append(module(states[-1]))
        self.states = torch.stack(states).flatten(2)
        self.source = torch.arange(self.states.shape[-1], device=self.states.device)

    @torch.no_grad()
    def advance(self, numbers: list[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """See `StateMaps`. A module's carry is measured: the share of a change that comes out along the change."""
        r, b = states.shape[1:3]
        ends = [self.model.layers[i](one.reshape(r * b, *self.shape)) for i, one in zip(numbers, states, strict=True)]
        end = torch.stack(ends).view_as(states)
        before = states - torch.stack([self.states[i] for i in numbers]).unsqueeze(1)
        after = end - torch.stack([self.states[i + 1] for i in numbers]).unsqueeze(1)
        along = (before * after).sum((1, 3), keepdim=True)  # (m, 1, B, 1), over all changes
        carry = along / before.square().sum((1, 3), keepdim=True).clamp(min=1e-300)
        return end, carry.expand_as(end)

    def withheld(self, spans: list[tuple[int, int]], by: StandIn) -> Tensor:
        """See `StateMaps`; the only stand-in is "skip"."""
        return torch.stack([self.states[i] for i, _ in spans])

    @torch.no_grad()
    def read(self, states: Tensor) -> Tensor:
        """Predict `(..., [T,] V)` from states `(..., S)`."""
        lead = states.shape[:-1]
        out: Tensor = self.model.head(states.reshape(-1, *self.shape))
        return out.view(*lead, *out.shape[1:])
