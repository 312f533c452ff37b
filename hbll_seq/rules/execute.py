"""Shared parts of the rules over time: predict with a rule's execution of the layers, take the loss, differentiate.

`train` does the same with an engine, and takes a shorter way where that is provably equal.
"""

import math

import torch
from torch import Tensor

from hbll_seq import cells as c
from hbll_seq.data.batch import Batch
from hbll_seq.distributed.shards import current
from hbll_seq.distributed.share import shape_of, whole_loss
from hbll_seq.engine import Engine, Execute
from hbll_seq.engine.execution import told
from hbll_seq.engine.layer import last_state
from hbll_seq.engine.one_layer import Head
from hbll_seq.errors import InputError, warn
from hbll_seq.models.base import Model
from hbll_seq.models.converted import others_layer
from hbll_seq.models.over_time import TimeModel
from hbll_seq.models.plain import plain as plain
from hbll_seq.models.recurrent import SequenceModel


def forward_backward(
    model: TimeModel, batch: Batch, execute: Execute, *, lookup: bool = False
) -> tuple[float, Tensor | None]:
    """Add the batch's gradients to `.grad`; return the mean loss and the loss per step `(B, T)` (or None).

    With `lookup` the first cell may get symbols in place of their embeddings (`cells.symbol_cell`).
    """
    return forward_backward_state(model, batch, execute, lookup=lookup)[:2]


def forward_backward_state(
    model: TimeModel, batch: Batch, execute: Execute, *, lookup: bool = False
) -> tuple[float, Tensor | None, list[Tensor] | None]:
    """Do `forward_backward`; return also the state after the batch (`StepResult.state`)."""
    with model.update_by(execute, batch.x):
        loss, per_step, state = model.training_loss(batch, execute, lookup=lookup)
        whole_loss(loss, model.target_count(batch), added=model.losses_add).backward()
        return float(loss.detach()), per_step, state


def need_layers(model: TimeModel, rule: str) -> None:
    """Refuse a model without recurrent layers.

    Raises:
        InputError: there is none that the rule could run; a module of the user's, which `step` makes a model of.
    """
    if not isinstance(model, TimeModel):
        came = f"a {type(model).__name__} given to setup"
        raise InputError("model", came, "no setup for a module of your own: hs.step(..., loss=...) does without")
    if not model.cells:
        raise InputError(
            "rule", f"{rule!r} for a {type(model.inner).__name__} without recurrent layers that it could run",
            'rule="bptt", which is plain autograd for any module; or nn.GRU, nn.LSTM, nn.RNN or layers of hbll_seq.nn',
        )  # fmt: skip


def warn_of_others(model: TimeModel, rule: str) -> int:
    """Warn of recurrent layers inside a user's module that a rule which changes credit does not run.

    Returns:
        The identity of the module, by which a rule knows that it has warned.
    """
    if isinstance(model.inner, Model):  # of this package: it says which cells it has
        return id(model.inner)
    others = [name or type(one).__name__ for name, one in model.inner.named_modules() if others_layer(one)]
    if others:
        warn(
            f"rule {rule!r} does not run {', '.join(others)}, whose gradient stays that of backpropagation through "
            "time; hs.convert says why, and convert=True lets it run plain layers"
        )
    return id(model.inner)


def train(
    model: TimeModel, batch: Batch, engine: Engine, credit: int, discount: float | Tensor, *,
    keep: bool = False, probe: bool = False,
) -> tuple[float, Tensor | None, list[Tensor] | None]:  # fmt: skip
    """Add an engine's gradients to `.grad`; return the mean loss, the loss of every credit block (or None), and the
    state after the batch (`StepResult.state`).

    A single plain layer computes its loss block by block. Stacks and all other models use autograd from layer to layer.

    Args:
        model: the model to train.
        batch: its data.
        engine: runs the layers; its `records` report on it.
        credit: time steps of a credit block.
        discount: factor on the message that enters a credit block, a number or `(m, B, 1)`.
        keep, probe: see `Engine.begin`.
    """
    engine.begin(keep=keep, probe=probe)
    if not keep and inside(model, batch, engine):
        assert isinstance(model, SequenceModel)  # as `plain` says
        cell, x = model.cells[0], batch.x
        if model.embedding is not None:
            c.check_symbols(x, len(model.embedding.weight))
            cell, x = c.SymbolCell(cell, model.embedding.weight), x.unsqueeze(-1)
        head = Head(model.readout, model.objective, model.task == "sequence")
        with c.own_precision(x):
            start = cell.initial(len(x), model.readout.weight) if batch.state is None else batch.state[0]
            loss, losses = engine.one_layer(cell, head, x, start, batch, credit, discount)
            state = None if batch.state is None else [last_state(cell, x, engine.records[0]).clone()]
    else:

        def executing(gamma: float | Tensor) -> Execute:
            def execute(
                layer: int, cell: c.Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
            ) -> tuple[Tensor, Tensor]:
                # a layer inside a user's module may see other steps or sequences than the batch has
                whole = model.whole_layers or current() is not None
                rows = shape_of(batch)[1] if len(x) == len(batch.x) else len(x)  # of a share, those of the whole batch
                block = min(credit, x.shape[1]) if whole else engine.credit_block(x.shape[1], rows)
                return engine.layer(layer, cell, x, state, lengths, block, gamma, end=end)

            return told(execute, engine, lambda rows: executing(_of_rows(gamma, rows)))

        lookup = engine.options.precision == "float32" and isinstance(model, SequenceModel) and plain(model)
        loss, per_step, state = forward_backward_state(model, batch, executing(discount), lookup=lookup)
        losses = per_block(per_step, batch.mask, credit)
    engine.end()
    return loss, losses if losses is not None or math.isfinite(loss) else broken(engine), state


def _of_rows(discount: float | Tensor, rows: slice) -> float | Tensor:
    """Return the discounts of some sequences."""
    each = isinstance(discount, Tensor) and discount.ndim == 3 and discount.shape[1] > 1
    return discount[:, rows] if isinstance(discount, Tensor) and each else discount


def inside(model: TimeModel, batch: Batch, engine: Engine) -> bool:
    """Return whether the loss is computed block by block: one layer of a plain model, compiled or in groups.

    Nothing stands between that layer and the read-out.
    """
    options = engine.options
    if (
        current() is not None
        or not isinstance(model, SequenceModel)
        or not model.bare
        or len(model.cells) > 1
        or not plain(model)
    ):
        return False
    if batch.state is not None and int(batch.lengths.min()) < batch.x.shape[1]:
        return False  # the state at each sequence's own end is wanted
    if options.group is not None or options.memory is not None:
        return True
    cell, table = model.cells[0], model.embedding
    if options.precision != "float32" or not cell.compiled(model.readout.weight):
        return False
    return table is None or c.SymbolCell.pays(cell, table.weight, batch.x.numel())


def deployed_loss(model: TimeModel, batch: Batch, *, grouped: bool = False) -> float:
    """Return the mean loss of the deployed chain, without gradient; `grouped` computes it a chunk of time steps at a
    time.
    """
    if isinstance(model, SequenceModel) and grouped and model.bare and len(model.cells) == 1 and plain(model):
        return _in_chunks(model, batch)
    return model.deployed_loss(batch)


CHUNK = 16384  # time steps of the deployed chain at a time


def _in_chunks(model: SequenceModel, batch: Batch) -> float:
    (cell,) = model.cells
    steps = batch.x.shape[1]
    state = cell.initial(len(batch.x), model.readout.weight) if batch.state is None else batch.state[0]
    block = min(CHUNK, steps)
    loss = Head(model.readout, model.objective, model.task == "sequence").loss(batch, block)
    with torch.no_grad(), c.own_precision(batch.x), loss.new_pass() as scored:
        for i in range(0, steps, block):
            h, state = cell.deployed(model.embed(batch.x[:, i : i + block]), state)
            scored(i // block, i // block + 1, h.transpose(0, 1).contiguous(), False)
    return scored.loss


def broken(engine: Engine) -> Tensor | None:
    """Locate a failure without losses by block: `(n,)`, 0 for a block whose end state is finite, else NaN."""
    for record in engine.records:
        if record.end is not None and not torch.isfinite(record.end).all():
            fine = torch.isfinite(record.end).flatten(1).all(1)
            return torch.where(fine, 0.0, math.nan)
    return None


def per_block(per_step: Tensor | None, mask: Tensor | None, block: int) -> Tensor | None:
    """Average the loss per time step `(B, T)` by block, `(n,)`; NaN for a block without a target.

    If the loss is not finite, such a block gives 0: non-finite entries locate the failure.
    """
    if per_step is None:
        return None
    counted = per_step.new_ones(per_step.shape) if mask is None else mask.to(per_step)
    empty = math.nan if torch.isfinite(per_step).all() else 0.0
    means = []
    for p, m in zip(per_step.split(block, 1), counted.split(block, 1), strict=True):
        means.append(float((p * m).sum() / m.sum()) if m.any() else empty)
    return per_step.new_tensor(means)
