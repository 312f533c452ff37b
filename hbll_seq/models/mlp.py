"""`MLP`: fully connected layers of equal width."""

from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.scalars import as_integer, integer, plain_number
from hbll_seq.errors import InputError
from hbll_seq.models.layered import Head, Layered
from hbll_seq.models.registry import remember

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


class MLPBlock(nn.Module):
    """A layer `activation(W z + b)`, optionally `z + activation(W LayerNorm(z) + b)`."""

    def __init__(self, width: int, activation: str, residual: bool, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.linear, self.activation, self.residual = nn.Linear(width, width), ACTIVATIONS[activation](), residual

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, width) -> (B, width)`."""
        out: Tensor = self.activation(self.linear(self.norm(z)))
        return z + out if self.residual else out


@remember
class MLP(Layered):
    """A deep fully connected network.

    Args:
        input_shape: shape of one input; it is flattened.
        output_size: classes V, or values C.
        hidden: width.
        layers: N: N - 1 hidden layers after the embedding, and the head.
        activation: "sigmoid", "tanh", "relu" or "gelu".
        residual: add skip connections.
        norm: add layer normalisation.
        objective: "cross_entropy" or "mse".
        nodes: rule for combining messages: "gaussian", or "bernoulli" (sigmoid without residual).
        seed: seed of the initialisation; the global random state is not touched.
    """

    def __init__(
        self, input_shape: int | tuple[int, ...], output_size: int, *, hidden: int = 128, layers: int = 8,
        activation: str = "sigmoid", residual: bool = False, norm: bool = False, objective: Any = "cross_entropy",
        nodes: str = "gaussian", seed: int = 0,
    ) -> None:  # fmt: skip
        alone = as_integer(input_shape) is not None
        sides: Any = (input_shape,) if alone or not isinstance(input_shape, list | tuple) else input_shape
        shape = tuple(integer("input_shape", side) for side in sides)
        output_size, hidden = integer("output_size", output_size), integer("hidden", hidden)
        layers, seed = integer("layers", layers, least=2), plain_number(seed)
        if activation not in ACTIVATIONS:
            raise InputError("activation", repr(activation), f"one of {sorted(ACTIVATIONS)}")
        if nodes == "bernoulli" and (activation != "sigmoid" or residual):
            raise InputError("nodes", '"bernoulli" without plain sigmoid units', 'activation="sigmoid", residual=False')
        with SeededDraws(seed):
            size = int(torch.Size(shape).numel())
            embed = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), ACTIVATIONS[activation]())
            blocks = [MLPBlock(hidden, activation, residual, norm) for _ in range(layers - 1)]
            head = Head(hidden, output_size, norm)
        super().__init__(
            blocks,
            embed=embed,
            head=head,
            input_shape=shape,
            output_size=output_size,
            objective=objective,
            nodes=nodes,
        )
        self._config = dict(
            input_shape=shape, output_size=output_size, hidden=hidden, layers=layers, activation=activation,
            residual=residual, norm=norm, objective=objective, nodes=nodes, seed=seed,
        )  # fmt: skip
