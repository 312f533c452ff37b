"""Programs of `torch.export` with a loop over any number of time steps.

PyTorch's recurrent layers are unrolled when they are exported, for one length. Here every cell runs through PyTorch's
`scan`, which keeps the loop a loop.
"""

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim, ExportedProgram

from hbll_seq.cells import Cell
from hbll_seq.cells.user import UserCell
from hbll_seq.exporters.parts import Part, needs_lengths
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.nn.stack import reverse


def loop(cell: Cell, x: Tensor, state: Tensor) -> Tensor:
    """Return outputs `(B, T, d)` of a cell by `scan`."""
    projects = not isinstance(cell, UserCell)  # whose `advance` estimates a carry, which no graph can hold

    def step(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        after = cell.advance(now, before).state if projects else cell.step(now, before)
        return after, cell.output(after).clone()

    return scan(step, state, cell.project(x), dim=1)[1]


class Whole(nn.Module):
    """A recurrent model over whole sequences, in terms that `torch.export` keeps."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return what the model returns."""
        model = self.model
        h, following = model.embed(x), iter(model.cells)
        for layer, directions in enumerate(model.directions):
            outputs = []
            for backward in range(directions):
                cell = next(following)
                given = reverse(h, lengths) if backward else h
                out = loop(cell, given, given.new_zeros(given.shape[0], cell.state_size))
                outputs.append(reverse(out, lengths) if backward else out)
            h = model.between(layer, h, outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1))
        return model.read(h, lengths)


class Step(nn.Module):
    """A recurrent model for one time step."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the prediction and the new states."""
        model, h, after = self.model, self.model.embed(x), []
        for layer, (cell, state) in enumerate(zip(model.cells, states, strict=True)):
            new = cell.step(h, state)
            h = model.between(layer, h, cell.output(new))
            after.append(new)
        return model.readout(h), after


def program(model: SequenceModel, part: Part) -> ExportedProgram:
    """Return a recurrent model in evaluation mode as a program with dynamic batch and time."""
    batch, time = Dim("batch"), Dim("time")
    if part == "step":
        states = [torch.zeros(2, cell.state_size) for cell in model.cells]
        shapes = ({0: batch}, [{0: batch} for _ in states])
        return _export(Step(model), (_example(model, 2), states), shapes)
    x = _example(model, 2, 3)
    if needs_lengths(model):
        return _export(Whole(model), (x, torch.tensor([3, 2])), ({0: batch, 1: time}, {0: batch}))
    return _export(Whole(model), (x,), ({0: batch, 1: time},))


def _example(model: SequenceModel, *shape: int) -> Tensor:
    return (
        torch.zeros(shape, dtype=torch.int64) if model.embedding is not None else torch.zeros(*shape, model.input_size)
    )


def _export(module: nn.Module, example: tuple[object, ...], shapes: tuple[object, ...]) -> ExportedProgram:
    with torch.no_grad():  # strict: otherwise the loops of a second export have the batch of the first (torch 2.13)
        return torch.export.export(module.eval(), example, dynamic_shapes=shapes, strict=True)
