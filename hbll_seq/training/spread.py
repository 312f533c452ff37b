"""One update on several ranks: each has its part of every batch, and one sum gives all of them the same gradient."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.batch import Batch
from hbll_seq.data.draws import borrowed_generators
from hbll_seq.distributed.cuts import spans_of
from hbll_seq.distributed.ranks import Ranks, all_rows, along_time
from hbll_seq.distributed.shards import TimeShards
from hbll_seq.distributed.share import Share
from hbll_seq.errors import InputError, warn
from hbll_seq.models.any_module import AnyModule
from hbll_seq.models.base import Model, kept_buffers
from hbll_seq.models.converted import layers_of, others_layer
from hbll_seq.models.scoring import predict_on
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
    inner = model.inner
    layers = layers_of(inner)
    both = getattr(inner, "bidirectional", False) or any(one.bidirectional for one in layers)
    if both and discount not in (1, "auto"):
        raise InputError("discount", f'{discount} for a bidirectional model with parallel={{"time": ...}}', "1")
    if model.own_loss is not None:
        came = f'"time" for a {type(inner).__name__}, {model.own_loss} of whole sequences'
        raise InputError("parallel", came, "data alone, or a model that reads time steps one by one")
    if not isinstance(inner, Model):
        others = [name or type(one).__name__ for name, one in inner.named_modules() if starts_anew(one)]
        if others:
            raise InputError(
                "parallel", f'"time" for {", ".join(others)}, which would start anew in every span',
                "layers of hbll_seq.nn, or plain ones with convert=True (hs.convert says why one is left)",
            )  # fmt: skip


def starts_anew(module: nn.Module) -> bool:
    """Return whether a module runs a recurrent network that knows nothing of other spans."""
    return others_layer(module) or isinstance(module, nn.RNNCellBase)


def gathers(model: Model) -> bool:
    """Return whether the loss is of whole sequences, so that every rank needs the outputs of all spans."""
    if not isinstance(model, AnyModule) or model.loss.kind in ("labels", "values"):
        return False
    return not reads_ends(model)


def reads_ends(model: Model) -> bool:
    """Return whether the model reads outputs at the sequences' ends, which every rank gets."""
    return isinstance(model.inner, Model) and model.inner.task == "sequence"


def check_first(
    model: Model, rule: Rule[Any], batch: Batch, ranks: Ranks, longest: int | None, batch_size: int
) -> None:  # fmt: skip
    """Refuse data that differ on the ranks, or whose time steps cannot be spread, as far as the first batch shows.

    Args:
        model: the model.
        rule: says where spans may be cut.
        batch: the first batch.
        ranks: the processes.
        longest: time steps of the longest sequence, None if unknown.
        batch_size: sequences a batch.

    Raises:
        InputError: names the argument.
    """
    _check_same(batch, ranks)
    if ranks.by_time.size == 1:
        return
    if batch.x.ndim < 2:
        raise InputError("parallel", f'"time" for x of shape {tuple(batch.x.shape)}', "sequences")
    rows, steps = (batch.whole or batch.x.shape[:2]) if longest is None else (batch_size, longest)
    unit, count = rule.unit(steps, rows), ranks.by_time.size
    if spans_of(steps, unit, count) is None:
        came = f'"time": {count} for {steps} time steps, cut at multiples of {unit}'
        if longest is not None:
            raise InputError("parallel", came, f"at most {-(-steps // unit)} ranks in time")
        warn(f"parallel: {came}, in the first batch: ranks share the sequences of such a batch, and cut none in time")
    if not isinstance(model.inner, Model) and not gathers(model) and not along_time(batch, batch.x.shape[1]):
        raise InputError(
            "y", 'one target a sequence for a module of your own, with parallel={"time": ...}',
            "targets of time steps: the module sees no sequence's end; or a loop of your own with "
            "hs.distributed.time_sharded, whose `at_ends` gives the outputs there",
        )  # fmt: skip


def _check_same(batch: Batch, ranks: Ranks) -> None:
    """Refuse ranks that drew different first batches: each takes its share of a batch that all know.

    Raises:
        InputError: on every rank.
    """
    if batch.whole is not None:  # each has read its own part
        return
    parts = [one for one in (batch.x, batch.lengths, batch.y, batch.mask, batch.weight) if one is not None]
    sums = [_by_rows(one) for one in parts]
    sizes = [size for one in (batch.x, batch.y) for size in (one.ndim, *one.shape)]
    own = torch.tensor([*sums, *sizes])
    told = torch.tensor([len(own), int((own * torch.arange(1, len(own) + 1)).sum())])
    found = ranks.world.gather(told)
    if not bool((found == found[0]).all()):
        raise InputError(
            "x", "another first batch on every rank", "the same data in the same order on all: fit takes each rank's "
            "share of every batch, so no DistributedSampler and no generator of its own for a rank",
        )  # fmt: skip


def _by_rows(values: Tensor) -> int:
    """Return a sum of the bytes `(B, ...)` that the order of sequences changes too."""
    rows = values.contiguous().view(len(values), math.prod(values.shape[1:])).view(torch.uint8)
    sums = rows.sum(1, dtype=torch.int64)
    return int((sums * torch.arange(1, len(sums) + 1, device=sums.device)).sum())


@torch.no_grad()
def check_gathered(model: Model, batch: Batch, ranks: Ranks | None) -> None:
    """Refuse a loss of whole sequences for outputs that are not one a time step, of which ranks would have spans.

    Raises:
        InputError: names the loss.
    """
    if ranks is None or ranks.by_time.size == 1 or not gathers(model):
        return
    assert isinstance(model, AnyModule)
    with kept_buffers(model.inner), borrowed_generators(batch.x.device, 0):
        out, _ = model.called(batch)
    if out.ndim < 3 or out.shape[1] != batch.x.shape[1]:
        came = f"{model.loss.described()!r} of outputs {tuple(out.shape)} for x {tuple(batch.x.shape)}"
        raise InputError(
            "loss", f'{came}, with parallel={{"time": ...}}',
            "(B, T, ...) outputs, one a time step of x; or a loop of your own with hs.distributed.time_sharded",
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
    total: list[Tensor | None] = [None] * len(parameters)
    seen = loss = judged = 0.0
    metrics, result = dict[str, float](), StepResult(0.0, {})
    before, state = ranks.traffic(), None
    for batch in batches:
        rows, steps = batch.whole or (len(batch.x), batch.x.shape[1] if batch.x.ndim > 1 else 1)
        # a module of the user's packs sequences itself, or runs over their padding, as it does in one process
        share, shards = ranks.share(
            batch,
            rule.unit(steps, rows),
            told=isinstance(model.inner, Model),
            gathers=gathers(model),
            ends=reads_ends(model),
        )
        for p in parameters:
            p.grad = None
        if len(share.batch.x):
            result, weight, own = _part(model, share, shards, device, rule, progress, ranks)
            for i, p in enumerate(parameters):
                if p.grad is not None:
                    so_far = total[i]
                    total[i] = p.grad.mul_(weight) if so_far is None else so_far.add_(p.grad, alpha=weight)
            part = weight / share.copies  # all ranks of a span's group report the same loss
            loss, seen, judged = loss + part * result.loss, seen + part, judged + own
            for name, value in model.metric_values().items():
                metrics[name] = metrics.get(name, 0.0) + (own * value if own else 0.0)  # of no targets: 0 / 0
        if batch.state is not None:
            ends = result.state if len(share.batch.x) else [one[:0] for one in batch.state]
            state = all_rows(ends, rows, share.among)
    names = sorted(model.metrics) if isinstance(model, AnyModule) else []  # also on a rank without a sequence
    made = [float(one is not None) for one in total]
    figures = [loss, seen, judged, *(metrics.get(name, 0.0) for name in names), *made]
    loss, seen, judged, *rest = ranks.world.sum(torch.tensor(figures, dtype=torch.float64)).tolist()
    values, made = rest[: len(names)], rest[len(names) :]
    size = 1.0 if model.losses_add else seen
    # a gradient that no rank has stays None: an optimiser with weight decay leaves such a weight alone
    wanted = [
        (p, torch.zeros_like(p) if one is None else one)
        for p, one, ranks_with in zip(parameters, total, made, strict=True) if ranks_with
    ]  # fmt: skip
    _sum([one for _, one in wanted], ranks)
    for p in parameters:
        p.grad = None
    for p, one in wanted:
        p.grad = one.div_(size)
    ranks.average_running(model)
    sent = ranks.traffic().since(before)
    ranks.advise(sent, *(batches[0].whole or batches[0].x.shape[:2]))
    figures_of = dict(result.metrics) | {name: value / judged for name, value in zip(names, values, strict=True)}
    figures_of |= {
        "collectives": float(sent.collectives), "bytes_sent": float(sent.bytes), "seconds_waiting": sent.seconds,
        "spans_again": sent.again / max(sent.passes, 1),
    }  # fmt: skip
    blocks = result.block_loss if ranks.world.size == 1 else None  # those of this rank's part alone
    return StepResult(loss / size, figures_of, blocks, state)


@torch.no_grad()
def spread_state(
    model: Model, batch: Batch, device: torch.device, rule: Rule[Any], ranks: Ranks
) -> list[Tensor] | None:  # fmt: skip
    """Return the state of all sequences after a batch of which every rank has its part."""
    assert batch.whole is not None and batch.state is not None
    rows, steps = batch.whole
    share, shards = ranks.share(batch, rule.unit(steps, rows))
    ends: list[Tensor] | None = [one[:0] for one in batch.state]
    if len(share.batch.x):
        with ranks.entered(share, shards):
            ends = predict_on(model, share.batch.to(device))[1]
    return all_rows(ends, rows, share.among)


def _part(
    model: Model, share: Share, shards: TimeShards | None, device: torch.device | None, rule: Rule[Any],
    progress: float, ranks: Ranks,
) -> tuple[StepResult, float, float]:  # fmt: skip
    """Leave the gradient of this rank's part in `.grad`; return the rule's result, the weight of its loss, and of its
    metrics.

    Of a loss whose size is not known (a callable) a share counts by its sequences, and every whole batch as one.
    """
    batch = share.batch if device is None else share.batch.to(device)
    with ranks.entered(share, shards):
        result = rule.step(model, batch, progress=progress)
    known = not isinstance(model, AnyModule) or model.loss.known
    if shards is not None:  # the loss was weighed before it was differentiated: messages cross ranks
        weight = share.weight if known else share.weight * len(batch.x) / share.rows
        return result._replace(loss=share.loss), weight, model.target_count(batch) if batch.targeted() else 0.0
    if not batch.targeted():
        return result._replace(loss=0.0), 0.0, 0.0
    if model.losses_add:
        return result, 1.0, 1.0
    weight = model.target_count(batch) if known else len(batch.x) / share.rows
    return result, weight, weight


def _sum(tensors: list[Tensor], ranks: Ranks) -> None:
    """Sum tensors over all ranks in place, one collective a dtype."""
    kinds = dict.fromkeys(one.dtype for one in tensors)
    for kind in kinds:
        some = [one for one in tensors if one.dtype == kind]
        flat = ranks.world.sum(torch.cat([one.reshape(-1) for one in some]))
        for one, value in zip(some, flat.split([one.numel() for one in some]), strict=True):
            one.copy_(value.view_as(one))
