"""Cost and quality of every path of a layered network."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hbll_seq.errors import InputError
from hbll_seq.models import depth_tree
from hbll_seq.models.base import Model
from hbll_seq.models.layered import Layered, Path
from hbll_seq.training.evaluation import evaluate


class PathCost(NamedTuple):
    """Cost and quality of one path.

    Attributes:
        nodes: its modules, by number.
        parameters: of embedding, modules and head.
        flops: of one input's forward pass (matrix products and convolutions; a multiplication and its addition are 2).
        loss: on the data given, nats or squared units.
        accuracy: 0..1, NaN for a regression.
    """

    nodes: tuple[int, ...]
    parameters: int
    flops: int
    loss: float
    accuracy: float


class PathView(Model):
    """One path of a model as a model of its own, weights shared: for `evaluate` and `predict`."""

    family = "layered"

    def __init__(self, model: Layered, path: Path) -> None:
        super().__init__()
        self.model, self.nodes = model, model.path(path)
        self.task, self.objective, self.input_kind = model.task, model.objective, model.input_kind
        self.input_size, self.output_size = model.input_size, model.output_size
        self.input_shape, self.context = model.input_shape, model.context
        self.label_names = model.label_names

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """See `Model.forward`."""
        out: Tensor = self.model(x, lengths, path=self.nodes)
        return out


def path_flops(model: Layered, path: Path, example: Tensor) -> int:
    """Count the flops of the forward pass of one input `example` `(1, ...)` along a path."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example, path=path)
    return int(counter.get_total_flops())


def evaluate_paths(
    model: Layered, x: Any, y: Any = None, *, which: list[Path] | None = None, **options: Any
) -> list[PathCost]:
    """Measure cost and quality of paths on held-out data.

    Args:
        model: trained or not.
        x: as for `evaluate`, an array or tensor.
        y: as for `evaluate`.
        which: the paths; None for all.
        options: further ones of `evaluate`.

    Raises:
        InputError: there are more than 1,000 paths and `which` names none.
    """
    if not isinstance(model, Layered):
        raise InputError("model", type(model).__name__, "a Layered")
    if which is not None and not isinstance(which, list | tuple):
        raise InputError("which", type(which).__name__, "a list of paths, or None")
    chosen = depth_tree.every(model.depth) if which is None else [model.path(p) for p in which]
    like = next(model.parameters())
    example = like.new_zeros(1, *model.input_shape) if model.input_kind == "array" else torch.zeros(1, 8).long()
    fixed = sum(p.numel() for part in (model.embed, model.head) for p in part.parameters())
    each = [sum(p.numel() for p in module.parameters()) for module in model.layers]
    result = []
    for nodes in chosen:
        figures = evaluate(PathView(model, nodes), x, y, **options)
        flops = path_flops(model, nodes, example) // (1 if model.input_kind == "array" else 8)
        result.append(
            PathCost(
                nodes,
                fixed + sum(each[n - 1] for n in nodes),
                flops,
                figures["loss"],
                figures.get("accuracy", float("nan")),
            )  # fmt: skip
        )
    return result
