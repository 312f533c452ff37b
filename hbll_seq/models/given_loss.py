"""`GivenLoss`: a loss that the user gives, here a callable; `torch_losses` has torch's own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.pairs import Pairs
from hbll_seq.data.read_targets import Kind
from hbll_seq.errors import InputError
from hbll_seq.models.called import LENGTHS, POSITIONAL, parameters


class Scored(NamedTuple):
    """The loss of one batch.

    Attributes:
        loss: scalar with gradient.
        weight: sum of what the mean divides by, so that means of several batches can be put together; 1 if unknown.
        out, y: outputs and targets that count, in rows, for metrics; None where targets do not go with outputs.
    """

    loss: Tensor
    weight: float | Tensor
    out: Tensor | None = None
    y: Tensor | None = None


class GivenLoss:
    """The base of all losses; this class scores by a callable.

    Attributes:
        kind: targets it reads.
        known: whether `Scored.weight` is a true size.
        summed: whether losses of several batches add up.
        classes: V once it is known, for checks of labels.
        ignored: label that the loss itself leaves out, or None.
    """

    kind: Kind = "any"
    known = False
    summed = False
    ignored: int | None = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._count = arguments(function, "loss")
        self.classes: int | None = None

    def __call__(self, out: Tensor, lengths: Tensor | None, batch: Batch) -> Scored:
        """Score a batch.

        Args:
            out: outputs, `(B, ...)`.
            lengths: `(B,)` steps of the outputs, or None if the module shortens time and does not tell.
            batch: the batch, on the outputs' device.

        Raises:
            InputError: outputs and targets that do not go together, or a loss that is no scalar.
        """
        loss = self.function(*(out, batch.y, steps(out, lengths, batch), batch.target_lengths)[: self._count])
        if not isinstance(loss, Tensor) or loss.ndim:
            came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError("loss", f"a loss that returns {came}", "a scalar tensor, such as the mean")
        return Scored(loss, 1.0)

    def check_targets(self, data: Pairs) -> None:
        """Refuse targets that no output can have."""

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply `function` to the loss's own tensors, for another device or dtype."""
        if isinstance(self.function, nn.Module):
            self.function._apply(function)

    def named(self) -> str:
        """Return a short name for the history."""
        own = getattr(self.function, "__qualname__", None)
        return str(own) if own is not None else type(self.function).__name__

    def described(self) -> str:
        """Return a description of everything that decides the loss, to compare runs."""
        if not isinstance(self.function, nn.Module):
            return self.named()
        plain = {k: v for k, v in vars(self.function).items() if isinstance(v, str | int | float | None)}
        told = ", ".join(f"{k}={v}" for k, v in sorted(plain.items()) if k != "training" and k[0] != "_")
        tensors = ", ".join(f"{name}={[round(v, 6) for v in b.flatten()[:64].tolist()]}"
                            for name, b in self.function.named_buffers())  # fmt: skip
        return f"{self.named()}({', '.join(part for part in (told, tensors) if part)})"


def steps(out: Tensor, lengths: Tensor | None, batch: Batch) -> Tensor:
    """Return `lengths`; if not known, all steps of outputs `(B, T, V)`, or the inputs' lengths of outputs `(B, V)`."""
    if lengths is not None:
        return lengths
    return torch.full((len(out),), out.shape[1]) if out.ndim > 2 else batch.lengths


def arguments(function: Callable[..., Any], name: str) -> int:
    """Return how many of (out, y, lengths, target_lengths) a callable takes: 2, 3 or 4.

    Raises:
        InputError: it takes fewer, or more.
    """
    found = parameters(function.forward if isinstance(function, nn.Module) else function)
    if found is None:
        return 2
    positional = [p for p in found if p.kind in POSITIONAL]
    required = len([p for p in positional if p.default is p.empty])
    open_end = any(p.kind is p.VAR_POSITIONAL for p in found)
    wanted = [p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if required > 4 or (len(positional) < 2 and not open_end) or wanted:
        raise InputError(name, f"a callable with {required} arguments", "(out, y) or (out, y, lengths)")
    if len(positional) > 2 and required == 2 and positional[2].name in (*LENGTHS, "out_lengths", "output_lengths"):
        return 3
    return max(2, required)
