"""Feedforward networks of equal-width modules, trained over a tree of depth.

An embedding gives z_0, module n gives z_n, and the head reads the last one. The modules are called nodes. Any path of
the tree over them (`hbll_seq.models.depth_tree`) is a network of its own with the same embedding and head.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hbll_seq.errors import InputError
from hbll_seq.models import depth_tree
from hbll_seq.models.base import InputKind, Model, Objective, Task
from hbll_seq.models.registry import remember

Path = str | Sequence[int]


class Head(nn.Module):
    """A linear read-out of the last axis, shared by all paths.

    Args:
        width, output_size: sizes of the last axis, before and after.
        norm: layer-normalise first.
        pool: average over the tokens of `(B, tokens, width)` first.
    """

    def __init__(self, width: int, output_size: int, norm: bool = False, pool: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.linear = nn.Linear(width, output_size)
        self.pool = pool

    def forward(self, z: Tensor) -> Tensor:
        """Predict `(B, [tokens,] V)` from `(B, [tokens,] width)`; without the axis of tokens where `pool`."""
        z = self.norm(z)
        out: Tensor = self.linear(z.mean(1) if self.pool else z)
        return out


@remember
class Layered(Model):
    """A stack of modules that all map one shape onto itself.

    Args:
        layers: the modules, nodes 1..N-1; the head is node N. At least one.
        embed: maps the input to z_0.
        head: maps any z_n to predictions.
        input_shape: shape of one input (`input_kind` "array").
        output_size: classes V, or values C.
        task: "sequence" (one target per input), "step", or "next".
        objective: "cross_entropy" or "mse".
        input_kind: "array" `(B, *input_shape)`, or "symbols" `(B, T)`.
        input_size: number of symbols, for "symbols".
        nodes: "gaussian", or "bernoulli" if every z is a vector of probabilities (sigmoid units).

    Attributes:
        trained_for: "full" after training for the full path alone, "any" after training for every path (rule "hbll"
            with `paths="any"`), None if that is not known. `save` keeps it.

    Raises:
        InputError: in `forward`, a module that changes the shape of its input.
    """

    family: ClassVar[str] = "layered"
    trained_for: str | None = None

    def __init__(
        self, layers: Sequence[nn.Module], *, embed: nn.Module, head: nn.Module, output_size: int,
        input_shape: Sequence[int] = (), input_size: int | None = None, task: Task = "sequence",
        objective: Objective = "cross_entropy", input_kind: InputKind = "array", nodes: str = "gaussian",
    ) -> None:  # fmt: skip
        super().__init__()
        if len(layers) < 1 or not all(isinstance(m, nn.Module) for m in layers):
            raise InputError("layers", [type(m).__name__ for m in layers], "at least one nn.Module")
        if nodes not in ("gaussian", "bernoulli"):
            raise InputError("nodes", repr(nodes), '"gaussian" or "bernoulli"')
        if task not in ("sequence", "step", "next"):
            raise InputError("task", repr(task), '"sequence", "step" or "next"')
        if objective not in ("cross_entropy", "mse"):
            raise InputError("objective", repr(objective), '"cross_entropy" or "mse"')
        if input_kind == "array" and not input_shape:
            raise InputError("input_shape", tuple(input_shape), "the shape of one input")
        self.embed, self.head = embed, head
        self.layers = nn.ModuleList(layers)
        self.input_shape, self.output_size = tuple(input_shape), output_size
        self.input_size = input_size if input_size is not None else int(torch.Size(input_shape).numel())
        self.task, self.objective, self.input_kind, self.nodes = task, objective, input_kind, nodes
        self._config: dict[str, Any] | None = None

    @property
    def depth(self) -> int:
        """The number of modules and the head, N."""
        return len(self.layers) + 1

    def config(self) -> dict[str, Any]:
        """Return constructor arguments as JSON-able values, for `save`.

        Raises:
            InputError: the modules are the caller's own, so this package cannot rebuild them.
        """
        if self._config is None:
            raise InputError(
                "model", "a Layered of modules of your own", "MLP, ViT or GPT; save its state_dict yourself"
            )
        return dict(self._config)

    def path(self, path: Path = "full") -> tuple[int, ...]:
        """Return the nodes of a path: "full", "short" (at most ceil(log2 N)), "first" (one), or given nodes."""
        return depth_tree.resolve(self.depth, path)

    def forward(self, x: Tensor, lengths: Tensor | None = None, path: Path = "full") -> Tensor:
        """Predict along a path: `(B, V)`, or `(B, T, V)` for tasks "step" and "next".

        `lengths` change nothing: there is one target per input, or the modules are causal.
        """
        z = self.embed(x)
        for n in self.path(path):
            shape = z.shape
            z = self.layers[n - 1](z)
            if z.shape != shape:
                raise InputError("layers", f"node {n} that maps {tuple(shape)} to {tuple(z.shape)}", "equal shapes")
        out: Tensor = self.head(z)
        return out

    def export(self, path: Path = "full") -> nn.Sequential:
        """Return a path as a plain `nn.Sequential` from inputs to predictions, with shared weights."""
        return nn.Sequential(self.embed, *(self.layers[n - 1] for n in self.path(path)), self.head)
