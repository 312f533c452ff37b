"""`fit`: train a model by a learning rule. Nothing about any rule is in here.

`prepare` checks the arguments and turns them into one object. `loop` makes the updates with the public `step`, and
`record` keeps their figures. Work is never lost: only finite gradients make an update, an interrupted run returns what
it reached, and a run that diverges leaves the weights of its last finite loss (`last_good`).
"""

import os
from contextlib import nullcontext
from typing import Any, Literal

from torch import nn

from hbll_seq import rules
from hbll_seq.data.scalars import flag
from hbll_seq.distributed.start import make_ranks
from hbll_seq.models.any_module import as_model
from hbll_seq.models.label_names import learned_names
from hbll_seq.training.history import History
from hbll_seq.training.loop import train
from hbll_seq.training.prepare import prepare


def fit(
    model: nn.Module, x: Any, y: Any = None, *, loss: Any = None, rule: str | rules.Rule[Any] = "hbll",
    steps: int | None = None, epochs: float | None = None, batch_size: int = 16, window: int | None = None,
    lr: float = 4e-3, optimizer: Any = "adam", weight_decay: float = 0.0, schedule: Any = "linear", warmup: int = 0,
    clip: float | None = 1.0, accumulate: int = 1, metrics: Any = None, sample_weight: Any = None, convert: bool = True,
    validation: Any = None, validate_every: int | str = "auto", mask: Any = None, ignore_index: int = -100,
    seed: int = 0, device: str = "auto", callbacks: Any = (), progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 200,
    resume: bool | Literal["changed"] = False, record_every: int = 50, measure_cosine: int | None = None,
    rule_options: dict[str, Any] | None = None, stateful: bool = False, parallel: Any = None, **options: Any,
) -> History:  # fmt: skip
    """Train `model` on sequences.

    Under `torch.autocast` recurrent layers still train in their weights' precision.

    Args:
        model: a model of this package, or any module `forward(x)` or `forward(x, lengths)` that returns outputs, or
            `(outputs, lengths)` where it shortens time (docs/howto/own-model.md); trained in place.
        x: sequences, in any form of docs/howto/data.md (`hbll_seq.data.inputs`).
        y: their targets (`hbll_seq.data.targets`), or names of classes, which the model keeps; None for the next step.
        mask, ignore_index: `(N, T)` bool, True where a target counts, None: all; label of those that do not count.
        window: time steps of windows cut from one long text; None for 256, or the model's context if less.
        batch_size: sequences per batch (a DataLoader brings its own).
        stateful: carry the state on along `batch_size` contiguous streams of one long text or series, or the rows of a
            batch; credit ends at each window's start, state at each epoch's (docs/howto/carried-state.md).
        rule: "hbll", "bptt", "tbptt", "dsf", or a `Rule`. Further keywords are its options; it must have each of them.
        rule_options: a dict with options of several rules; the rule takes those it has.
        steps, epochs: updates to make, or passes over the data; one pass if neither is given.
        convert: run plain `nn.GRU`, `nn.LSTM` and `nn.RNN` inside a module as this package's layers during the run.

    Loss and metrics:
        loss: "cross_entropy", "ctc", "mse" or another name of torch's losses, or one of its modules: the mean over the
            targets that count (`hbll_seq.models.torch_losses`); or a callable `(out, y)` or `(out, y, lengths)` of
            padded tensors that returns a scalar. None: the objective of a model of this package.
        sample_weight: `(N,)` weights of sequences, for the objective and torch's losses.
        metrics: callables `(out, y)` or torchmetrics objects by name (`hbll_seq.models.given_metrics`).

    Optimisation:
        lr, weight_decay: peak learning rate; weight decay of the optimiser.
        optimizer: "adam", "adamw", "sgd", a factory `f(parameters, lr=...)`, or an optimiser, whose own rates count.
        accumulate: batches per update, their gradients averaged by the targets that count (a callable loss: plainly).
        schedule: "linear" (to zero), "cosine", "constant", or a function from the update's number to a factor on `lr`.
        warmup, clip: updates of linear warm-up; largest norm of the gradient, None for no clipping.
        seed: seed of data order and of the model's draws; the global random state is untouched.
        parallel: `{"data": 2, "time": 2}` under `torchrun --nproc-per-node 4`, or a `DeviceMesh` of these axes: shares
            of the batch and spans of time; all processes make the same call (docs/howto/distributed.md).
        device: "auto" (the model's own; a GPU if there is one and the model is on the CPU), or a name.

    Validation and records:
        validation: held-out `x`, `(x, y)`, `((x, lengths), y)`; or a fraction: the last sequences, or a text's tail.
        validate_every: updates between validations; "auto" makes about ten.
        callbacks, progress: see `hbll_seq.training.callbacks`; show a bar.
        record_every, measure_cosine: updates between records of blocks' losses; comparisons with the exact gradient.

    Checkpoints:
        checkpoint, checkpoint_every: file for the state of the run (one run at a time writes it); updates between.
        resume: continue from the checkpoint if the file exists; a resumed run equals an uninterrupted one. True refuses
            changed settings that decide the result (`steps` too). "changed" uses them and records them in the history's
            `changes`; another rule or optimiser starts anew. The data of a DataLoader are not compared.

    Returns:
        A `History`. A batch in which no target counts makes no update and has no loss; `skipped_step` lists its number.

    Raises:
        InputError: before any weight changes.
        DivergenceError: loss or gradient is not finite. The model holds the weights of its last finite loss.
        LostRankError: another process failed. The model holds the weights of its last update.
    """
    trained = as_model(model, loss, metrics, ignore_index=ignore_index, general=sample_weight is not None)
    run = trained.in_run(flag("convert", convert))
    with run, learned_names(trained, x, y) as (x, y), make_ranks(parallel) or nullcontext() as ranks:
        return train(prepare(
            trained, x, y, mask=mask, ignore_index=ignore_index, window=window, validation=validation, rule=rule,
            rule_options=rule_options, options=options, sample_weight=sample_weight, convert=convert,
            steps=steps, epochs=epochs, batch_size=batch_size, accumulate=accumulate, lr=lr, optimizer=optimizer,
            weight_decay=weight_decay, schedule=schedule, warmup=warmup, clip=clip, seed=seed, device=device,
            callbacks=callbacks, progress=progress, validate_every=validate_every, record_every=record_every,
            measure_cosine=measure_cosine, checkpoint=checkpoint, checkpoint_every=checkpoint_every, resume=resume,
            stateful=stateful, ranks=ranks,
        ))  # fmt: skip
