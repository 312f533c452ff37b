"""A trained network as a chain of maps between states: what knockouts are done to.

Over time the maps are blocks and the states are the boundaries; over depth they are modules and their
outputs. Nothing here keeps a graph.
"""

from typing import Protocol

import torch
from torch import Tensor

from hbll_seq.attribution.withheld import Way
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel


class Chain(Protocol):
    """n maps in a row.

    Attributes:
        count: n.
        states: `(n+1, B, S)`, the first given, the last read out.
        source: `(S,)` int64; entry s of a jump's change comes from entry `source[s]` of what it is applied to.
    """

    count: int
    states: Tensor
    source: Tensor

    def advance(self, maps: list[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """States `(m, R, B, S)` through map `maps[k]` each: ends and carries g, both `(m, R, B, S)`."""
        ...

    def withheld(self, spans: list[tuple[int, int]], way: Way) -> Tensor:
        """`(m, B, S)`: the state after maps i..j-1 of each span when their input is withheld, all before it as it was.

        Only the last span may be shorter than the others.
        """
        ...

    def read(self, states: Tensor) -> Tensor:
        """Predictions from states `(..., S)` after the last map."""
        ...


class TimeChain:
    """Blocks of a recurrent model; a state is all layers' states side by side.

    Args:
        model: in float64.
        x: `(B, T)` or `(B, T, D)`.
        block: steps a block K; the last one may be shorter.
    """

    def __init__(self, model: SequenceModel, x: Tensor, block: int) -> None:
        self.model, self.cells, self.block = model, model.cells, block
        with torch.no_grad():
            self.x = model.embed(x).transpose(0, 1)  # (T, B, D)
        self.steps, self.rows = self.x.shape[0], self.x.shape[1]
        self.count = -(-self.steps // block)
        self.source = self._source()
        state = torch.cat([cell.initial(self.rows, self.x) for cell in self.cells], 1)
        states = [state]
        for i in range(self.count):
            states.append(self.advance([i], states[-1][None, None])[0][0, 0])
        self.states = torch.stack(states)

    def _source(self) -> Tensor:
        parts, start = [], 0
        for cell in self.cells:
            memory = torch.arange(start, start + cell.memory_size)
            parts += [memory, memory[: cell.state_size - cell.memory_size]]  # an LSTM's output follows its memory
            start += cell.state_size
        return torch.cat(parts).to(self.x.device)

    def inputs(self, maps: list[int]) -> Tensor:
        """`(K, m, B, D)` inputs of blocks of equal length."""
        return torch.stack([self.x[i * self.block : (i + 1) * self.block] for i in maps], 1)

    def advance(self, maps: list[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """See `Chain`."""
        if len(maps) > 1 and maps[-1] == self.count - 1 and self.steps % self.block:  # the last block is shorter
            parts = [self.advance(maps[:-1], states[:-1]), self.advance(maps[-1:], states[-1:])]
            return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        end, carry, _ = self.roll(self.inputs(maps), states, outputs=False)
        return end, carry

    @torch.no_grad()
    def roll(self, x: Tensor, states: Tensor, *, outputs: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs `(K, m, B, D)` and states `(m, R, B, S)`: ends, carries, and outputs `(K, m, R, B, d)` if wanted."""
        k, m, b, d = x.shape
        r = states.shape[1]
        h = x.unsqueeze(2).expand(k, m, r, b, d).reshape(k, m * r * b, d)
        flat = states.reshape(m * r * b, -1)
        ends, carries, start = [], [], 0
        for layer, cell in enumerate(self.cells):
            keep = outputs or layer + 1 < len(self.cells)
            state = flat[:, start : start + cell.state_size].contiguous()
            with cell.roll(h, state, keep=keep) as roll:
                ends.append(roll.end)
                carries.append(roll.carry if roll.link is None else torch.cat([roll.carry, roll.link * roll.carry], 1))
                if keep:
                    assert roll.outputs is not None
                    h = roll.outputs.clone()  # may be a work buffer
            start += cell.state_size
        shape = (m, r, b, -1)
        out = h.view(k, *shape) if outputs else None
        return torch.cat(ends, 1).view(shape), torch.cat(carries, 1).view(shape), out

    def substitute(self, maps: list[int], way: Way) -> Tensor:
        """`(K, m, B, D)` what blocks are given instead of their input ("swap", "mean", "zero")."""
        if way.how == "swap":
            return self.inputs(maps).roll(way.shift, 2)
        fill = self.x.mean((0, 1)) if way.how == "mean" else torch.zeros_like(self.x[0, 0])
        return fill.expand_as(self.inputs(maps))

    def withheld(self, spans: list[tuple[int, int]], way: Way) -> Tensor:
        """See `Chain`."""
        states = torch.stack([self.states[i] for i, _ in spans]).unsqueeze(1)
        if way.how == "skip":
            return states[:, 0]
        for q in range(max(j - i for i, j in spans)):
            active = [i + q for i, j in spans if i + q < j]
            short = active[-1] == self.count - 1 and bool(self.steps % self.block)
            groups = [active[:-1], active[-1:]] if short and len(active) > 1 else [active]
            new, at = [], 0
            for group in groups:
                part = states[at : at + len(group)]
                new.append(self.roll(self.substitute(group, way), part, outputs=False)[0])
                at += len(group)
            states = torch.cat([*new, states[at:]])
        return states[:, 0]

    @torch.no_grad()
    def read(self, states: Tensor) -> Tensor:
        """Predictions `(..., V)` from states `(..., S)`."""
        top = self.cells[-1]
        out: Tensor = self.model.readout(top.output(states[..., states.shape[-1] - top.state_size :]))
        return out


class DepthChain:
    """Modules of a layered model; withholding one leaves its input as its output.

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
    def advance(self, maps: list[int], states: Tensor) -> tuple[Tensor, Tensor]:
        """See `Chain`; a module's carry is measured: how much of a change comes out of it along that change."""
        r, b = states.shape[1:3]
        ends = [self.model.layers[i](one.reshape(r * b, *self.shape)) for i, one in zip(maps, states, strict=True)]
        end = torch.stack(ends).view_as(states)
        before = states - torch.stack([self.states[i] for i in maps]).unsqueeze(1)
        after = end - torch.stack([self.states[i + 1] for i in maps]).unsqueeze(1)
        along = (before * after).sum((1, 3), keepdim=True)  # (m, 1, B, 1), over all changes
        carry = along / before.square().sum((1, 3), keepdim=True).clamp(min=1e-300)
        return end, carry.expand_as(end)

    def withheld(self, spans: list[tuple[int, int]], way: Way) -> Tensor:
        """See `Chain`; the only way is "skip"."""
        return torch.stack([self.states[i] for i, _ in spans])

    @torch.no_grad()
    def read(self, states: Tensor) -> Tensor:
        """Predictions `(..., [T,] V)` from states `(..., S)`."""
        lead = states.shape[:-1]
        out: Tensor = self.model.head(states.reshape(-1, *self.shape))
        return out.view(*lead, *out.shape[1:])
