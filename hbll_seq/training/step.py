"""`step`: one update, for `fit` and for loops of your own; and the error for an update that is not finite."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hbll_seq import rules
from hbll_seq.data.batch import Batch
from hbll_seq.distributed.ranks import Ranks
from hbll_seq.errors import DivergenceError
from hbll_seq.models.any_module import as_model
from hbll_seq.models.base import Model
from hbll_seq.training.accumulate import accumulate, joined
from hbll_seq.training.arguments import check_step, share
from hbll_seq.training.spread import spread_gradient


class StepInfo(NamedTuple):
    """One update: the rule's result, the gradient norm before clipping, and whether the weights changed."""

    result: rules.StepResult
    grad_norm: float
    updated: bool


SKIPPED = StepInfo(rules.StepResult(0.0, {}), 0.0, False)  # a batch in which no target counts


def step(
    model: nn.Module,
    batch: Batch,
    rule: rules.Rule[Any],
    optimizer: torch.optim.Optimizer,
    clip: float | None = 1.0,
    *,
    progress: float = 1.0,
    loss: Any = None,
) -> StepInfo:
    """Make one update, in a loop of your own. Non-finite losses or gradients make no update.

    Args:
        model: the model to train; any module with `loss`, or an `AnyModule`.
        batch: see `hbll_seq.data.batch.Batch`.
        rule: a rule from `hbll_seq.rules.make`, after `rule.setup` for a model of this package.
        optimizer: over `model.parameters()` and `rule.parameters()`.
        clip: largest norm of the model's gradient, or None.
        progress: completed share of the run, 0 to 1: `fit` passes `i / n` at update i (from 0) of n. At 1, every update
            is made as at the end of a run, with whole credit (see `Rule.step` and `hs.gradient`).
        loss: as for `fit`.

    Returns:
        See `StepInfo`. A batch in which no target counts has loss 0 and makes no update; the rule does not see it.

    Raises:
        InputError: an argument that cannot be used, or `progress` outside 0..1; nothing is computed then.
    """
    progress, trained = share("progress", progress), as_model(model, loss)
    batch = check_step(trained, batch, rule, optimizer, clip)
    if batch.targeted():
        with trained.in_run(convert=True):
            return update(trained, [batch], rule, optimizer, clip, progress)
    clear_gradients(trained, rule, optimizer)
    return SKIPPED


def update(
    model: Model, batches: list[Batch], rule: rules.Rule[Any], optimizer: torch.optim.Optimizer, clip: float | None,
    progress: float, device: torch.device | None = None, ranks: Ranks | None = None,
) -> StepInfo:  # fmt: skip
    """Make one update with checked arguments, from one batch on the model's device or several (`accumulate`), with
    `ranks` from their parts of it.
    """
    clear_gradients(model, rule, optimizer)
    if ranks is not None:
        result = spread_gradient(model, batches, device, rule, progress, ranks)
    elif len(batches) == 1:
        result = rule.step(model, batches[0] if device is None else batches[0].to(device), progress=progress)
        if figures := model.metric_values():
            result = result._replace(metrics=joined(result.metrics, figures))
    else:
        result = accumulate(model, batches, device, rule, progress)
    grads = _gradients(model.parameters())
    norm = _norm(grads)
    # the rule's own parameters are not clipped with the model's, so that rules differ in nothing else
    if not (math.isfinite(result.loss) and math.isfinite(norm) and math.isfinite(_norm(_gradients(rule.parameters())))):
        return StepInfo(result, norm, False)
    if clip is not None and norm > clip:
        torch._foreach_mul_(grads, clip / norm)
    optimizer.step()
    rule.mark(model)
    return StepInfo(result, norm, True)


def clear_gradients(model: Model, rule: rules.Rule[Any], optimizer: torch.optim.Optimizer) -> None:
    """Clear `.grad` of all parameters, also of those that the optimiser does not have."""
    optimizer.zero_grad()
    for p in (*model.parameters(), *rule.parameters()):
        p.grad = None


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether every entry is finite.

    One pass over the tensors: a maximum over a non-finite entry is not finite.
    """
    largest = torch._foreach_norm([t.detach() for t in tensors], math.inf)
    return math.isfinite(float(torch.stack([one.float() for one in largest]).sum()))


def divergence(info: StepInfo, number: int) -> DivergenceError:
    """Return the error for update `number` (from 1), which was not made, or whose weights are not finite."""
    what = f"loss {info.result.loss}" if not math.isfinite(info.result.loss) else f"gradient norm {info.grad_norm}"
    what = "the update made weights that are not finite" if info.updated else what
    where = ""
    if info.result.block_loss is not None:
        bad = (~torch.isfinite(info.result.block_loss)).nonzero()
        where = f", first in block {int(bad[0])}" if len(bad) else ""
    return DivergenceError(
        f"step {number}{where}: {what}. The model holds the weights of its last finite loss. "
        "Try a smaller lr, a smaller clip, or more warmup; the figures so far are in error.history."
    )


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _norm(tensors: list[Tensor]) -> float:
    if not tensors:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors])))
