"""One update on several ranks: each has its part of every batch, and one sum gives all of them the same gradient."""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.distributed.ranks import Ranks, Share
from hbll_seq.distributed.shards import TimeShards
from hbll_seq.errors import InputError
from hbll_seq.models.any_module import AnyModule
from hbll_seq.models.base import Model
from hbll_seq.rules import Rule, StepResult


def check_spread(model: Model, rule: Rule[Any]) -> None:
    """Refuse a rule or a model that cannot be trained with time steps on several ranks.

    Raises:
        InputError: names the argument.
    """
    if not rule.spans_time:
        raise InputError("rule", f'{rule.name!r} with parallel={{"time": ...}}', '"hbll" or "bptt"')
    options = getattr(getattr(rule, "engine", None), "options", None)
    if getattr(options, "execution", None) == "measured":
        raise InputError("execution", '"measured" with parallel={"time": ...}', '"auto"')
    discount = getattr(options, "discount", 1.0)
    if getattr(model, "bidirectional", False) and discount not in (1, "auto"):
        raise InputError("discount", f'{discount} for a bidirectional model with parallel={{"time": ...}}', "1")
    if isinstance(model, AnyModule) and (model.loss.kind not in ("labels", "values")):
        raise InputError(
            "loss", f'{model.loss.described()!r} with parallel={{"time": ...}}',
            "a loss of single time steps; or a loop of your own with hs.distributed.time_sharded, whose `whole` gives "
            "the outputs of all spans",
        )  # fmt: skip


def agree(ranks: Ranks, step: int, model: Model) -> None:
    """Give all ranks the weights of the first, after a check that all go on from the same update.

    Raises:
        InputError: they do not.
    """
    steps = ranks.world.gather(torch.tensor([step])).flatten().tolist()
    if len(set(steps)) > 1:
        raise InputError("checkpoint", f"updates {steps} made, by rank", "one file that all processes can read")
    ranks.same_weights([*model.parameters(), *(one for one in model.buffers() if one.is_floating_point())])


def spread_gradient(
    model: Model, batches: list[Batch], device: torch.device | None, rule: Rule[Any], progress: float, ranks: Ranks
) -> StepResult:
    """Leave in `.grad` the gradient of all batches, each part weighted by the targets that its loss averages.

    Args:
        model: the model to train.
        batches: whole batches, the same on all ranks.
        device: where the model is; None if the batches are there.
        rule: gives the gradient of a batch.
        progress: see `Rule.step`.
        ranks: the processes.

    Returns:
        The mean loss of the whole (or sum), the user's metrics averaged likewise, and what was sent; the rule's own
        figures are those of this rank's last part.
    """
    parameters = [*model.parameters(), *rule.parameters()]
    total = [torch.zeros_like(p) for p in parameters]
    seen = loss = 0.0
    metrics, result = dict[str, float](), StepResult(0.0, {})
    before, state = ranks.traffic(), None
    for batch in batches:
        steps = batch.x.shape[1] if batch.x.ndim > 1 else 1
        share, shards = ranks.share(batch, rule.unit(steps, len(batch.x)))
        for p in parameters:
            p.grad = None
        if len(share.batch.x):
            result, weight = _part(model, share, shards, device, rule, progress, ranks)
            for sum_, p in zip(total, parameters, strict=True):
                if p.grad is not None:
                    sum_.add_(p.grad, alpha=weight)
            part = weight / ranks.by_time.size  # all ranks of a span's group report the same loss
            loss, seen = loss + part * result.loss, seen + part
            for name, value in model.metric_values().items():
                metrics[name] = metrics.get(name, 0.0) + part * value
        if batch.state is not None:
            own = result.state if len(share.batch.x) else [one[:0] for one in batch.state]
            state = ranks.all_rows(own, len(batch.x))
    names = sorted(metrics)
    figures = torch.tensor([loss, seen, *(metrics[name] for name in names)], dtype=torch.float64)
    loss, seen, *values = ranks.world.sum(figures).tolist()
    size = 1.0 if model.losses_add else seen
    _sum(total, ranks)
    for p, one in zip(parameters, total, strict=True):
        p.grad = one.div_(size) if p.requires_grad else None
    sent = ranks.traffic().since(before)
    figures_of = dict(result.metrics) | {name: value / seen for name, value in zip(names, values, strict=True)}
    figures_of |= {
        "collectives": float(sent.collectives), "bytes_sent": float(sent.bytes), "seconds_waiting": sent.seconds
    }  # fmt: skip
    blocks = result.block_loss if ranks.world.size == 1 else None  # those of this rank's part alone
    return StepResult(loss / size, figures_of, blocks, state)


def _part(
    model: Model, share: Share, shards: TimeShards | None, device: torch.device | None, rule: Rule[Any],
    progress: float, ranks: Ranks,
) -> tuple[StepResult, float]:  # fmt: skip
    """Leave the gradient of this rank's part in `.grad`; return the rule's result, and the part's weight."""
    batch = share.batch if device is None else share.batch.to(device)
    with ranks.entered(share, shards):
        result = rule.step(model, batch, progress=progress)
    if shards is not None:  # the loss was weighed before it was differentiated: messages cross ranks
        return result._replace(loss=share.loss), share.weight
    if not batch.targeted():
        return result._replace(loss=0.0), 0.0
    return result, 1.0 if model.losses_add else model.target_count(batch)


def _sum(tensors: list[Tensor], ranks: Ranks) -> None:
    """Sum tensors over all ranks in place, one collective a dtype."""
    kinds = dict.fromkeys(one.dtype for one in tensors)
    for kind in kinds:
        some = [one for one in tensors if one.dtype == kind]
        flat = ranks.world.sum(torch.cat([one.reshape(-1) for one in some]))
        for one, value in zip(some, flat.split([one.numel() for one in some]), strict=True):
            one.copy_(value.view_as(one))
