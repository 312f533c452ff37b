"""Metrics that the user gives: callables `(out, y)`, or objects with `update`, `compute` and `reset` (torchmetrics).

They see the targets that count, in rows, where each goes with an output: `(M, V)` and `(M,)`, or `(M, ...)` values. A
callable with a third argument `lengths` sees padded outputs and targets. With CTC, y is a list of label sequences.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models.given_loss import GivenLoss, Scored, arguments, steps

RESERVED = {
    "step", "loss", "lr", "grad_norm", "seconds", "schedule", "boundaries", "messages", "sweeps", "corrections",
    "inconsistency", "feedback_residual", "fallbacks", "tolerance", "carry_weight", "depth", "pull", "discount",
    "skipped_step", "block_loss", "block_step", "deployed_gap", "gap_step", "amplification", "amplification_step",
    "gradient_cosine", "cosine_step",
}  # fmt: skip


class GivenMetrics:
    """Named metrics of one model.

    Args:
        metrics: by name; None for none.

    Raises:
        InputError: no dict, a name that the history uses already, or a value that is no metric.
    """

    def __init__(self, metrics: Any = None) -> None:
        metrics = {} if metrics is None else metrics
        if not isinstance(metrics, Mapping):
            raise InputError(
                "metrics",
                type(metrics).__name__,
                "a dict from names to callables or torchmetrics objects; loss, "
                "accuracy and perplexity are reported without it",
            )
        self._all: dict[str, Any] = dict(metrics)
        self._count: dict[str, int] = {}
        for name, one in self._all.items():
            if not isinstance(name, str) or name in RESERVED or name.startswith("val_"):
                raise InputError("metrics", f"the name {name!r}", "a name that the history does not use itself")
            if isinstance(one, type) or not (_counts(one) or callable(one)):
                raise InputError("metrics", f"{name!r}: {one!r}"[:80], "a callable (out, y), or update, compute, reset")
            if not _counts(one):
                self._count[name] = arguments(one, f"metrics[{name!r}]")

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._all)

    @property
    def by_target(self) -> bool:
        """Whether every metric sees targets in rows, wherever sequences are cut."""
        return all(count == 2 for count in self._count.values())

    def __iter__(self) -> Any:
        """Iterate over the names."""
        return iter(self._all)

    @torch.no_grad()
    def of(
        self, scored: Scored, out: Tensor, lengths: Tensor | None, batch: Batch, loss: GivenLoss
    ) -> dict[str, float]:
        """Return all metrics of one batch."""
        tally = Tally(self)
        tally.add(scored, out, lengths, batch, loss)
        return tally.result()


class Tally:
    """Metrics over several batches: a callable's values are averaged by the targets that count.

    An object with `update` is reset at the start and at the end.
    """

    def __init__(self, metrics: GivenMetrics) -> None:
        self._metrics = metrics
        self._sums = dict.fromkeys(metrics._count, 0.0)
        self._size = 0
        for one in self._counting().values():
            one.reset()

    @torch.no_grad()
    def add(self, scored: Scored, out: Tensor, lengths: Tensor | None, batch: Batch, loss: GivenLoss) -> None:
        """Add one batch.

        Raises:
            InputError: a metric that returns no number.
        """
        rows = scored.y is not None
        given: tuple[Any, ...] = (out.detach(), batch.y)
        if loss.kind == "sequences" and batch.target_lengths is not None:
            given = (out.detach(), [one[:n] for one, n in zip(batch.y, batch.target_lengths.tolist(), strict=True)])
        pair = (scored.out.detach(), scored.y) if scored.out is not None and rows else given
        size = len(scored.y) if scored.y is not None else len(out)
        for name, count in self._metrics._count.items():
            whole = (*given, steps(out, lengths, batch), batch.target_lengths)
            value = self._metrics._all[name](*(pair if count == 2 else whole[:count]))
            self._sums[name] += size * as_number(name, value)
        self._size += size
        for one in self._counting().values():
            if isinstance(one, nn.Module):
                one.to(out.device)
            one.update(*pair)

    def result(self) -> dict[str, float]:
        """Return the values, in the order of the names."""
        found = {name: total / max(self._size, 1) for name, total in self._sums.items()}
        for name, one in self._counting().items():
            found[name] = as_number(name, one.compute())
            one.reset()
        return {name: found[name] for name in self._metrics}

    def _counting(self) -> dict[str, Any]:
        return {name: one for name, one in self._metrics._all.items() if name not in self._metrics._count}


def _counts(one: Any) -> bool:
    return all(callable(getattr(one, name, None)) for name in ("update", "compute", "reset"))


def as_number(name: str, value: Any) -> float:
    """Return a metric's value.

    Raises:
        InputError: it is no number.
    """
    try:
        single = getattr(value, "numel", lambda: 1)() == 1 and not isinstance(value, str)
        if single:
            return float(value)
    except (TypeError, ValueError):
        single = False
    came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise InputError("metrics", f"{name!r} that returns {came}", "a number")
