"""`fit`: train a model by a learning rule. Nothing about any rule is in here.

The arguments are checked and turned into one object (`prepare`). The updates are made in a thin loop over the public
`step` (`loop`), and their figures kept (`record`). What the user had is never lost: an update is made only from finite
gradients, an interrupted run returns what it reached, and a run that diverges leaves the weights of its last finite
loss (`last_good`).
"""

import os
from typing import Any, Literal

from hbll_seq import rules
from hbll_seq.models.base import Model
from hbll_seq.training.history import History
from hbll_seq.training.loop import train
from hbll_seq.training.prepare import prepare


def fit(
    model: Model, x: Any, y: Any = None, *,
    rule: str | rules.Rule[Any] = "hbll",
    steps: int | None = None, epochs: float | None = None, batch_size: int = 16, window: int | None = None,
    lr: float = 4e-3, optimizer: Any = "adam", weight_decay: float = 0.0, schedule: Any = "linear", warmup: int = 0,
    clip: float | None = 1.0,
    validation: Any = None, validate_every: int | str = "auto", mask: Any = None, ignore_index: int = -100,
    seed: int = 0, device: str = "auto", callbacks: Any = (), progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None, checkpoint_every: int = 200,
    resume: bool | Literal["changed"] = False, record_every: int = 50, measure_cosine: int | None = None,
    rule_options: dict[str, Any] | None = None, **options: Any,
) -> History:  # fmt: skip
    """Train `model` on sequences.

    Args:
        model: a `SequenceModel`, `CharLM`, `MLP`, `ViT`, `GPT`, `Layered`; trained in place.
        x: sequences, in any form of docs/howto/data.md (`hbll_seq.data.inputs`).
        y: their targets (`hbll_seq.data.targets`); None for next-step prediction.
        rule: "hbll", "bptt", "tbptt", "dsf", or a `Rule`; its options (`block_size`, `sweeps`, `feedback`, `pull`,
            ...) are further keywords.
        steps: length of training in steps; one of the two.
        epochs: length of training in passes over the data, 1 where neither is given.
        batch_size: sequences a step (a DataLoader brings its own).
        window: steps of the windows cut from one long text; None for 256, or the model's context.
        lr: peak learning rate.
        validation: `x`, `(x, y)` or `((x, lengths), y)` held out, or a fraction: the last sequences, or the tail
            of one long text.

    Other arguments:
        optimizer: "adam", "adamw", "sgd", or a factory `f(parameters, lr=...)`.
        schedule: "linear" (to zero), "cosine", "constant", or a factor as a function of the step.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; None for no clipping.
        validate_every: steps between validations; "auto" makes about ten.
        mask: which per-step targets count.
        ignore_index: the label of per-step targets that do not.
        seed: of data order and of whatever the model draws; the global random state is untouched.
        device: "auto" (the model's own; a GPU where there is one and the model is on the CPU), or a name.
        callbacks: see `hbll_seq.training.callbacks`.
        progress: show a bar.
        checkpoint: file for the state of the run; one run at a time writes it.
        checkpoint_every: steps between writes.
        resume: go on from the checkpoint, if it is there; a resumed run equals one that was never stopped. True refuses
            settings that decide the result and differ from the checkpoint's, and names them (`steps` too: schedules and
            discounts end with them). "changed" goes on with the new ones, and records what changed in the history's
            `changes`; another rule or optimiser starts anew on the weights reached. Data of a DataLoader go unchecked.
        record_every: steps between records of every block's loss.
        measure_cosine: steps between comparisons with the exact BPTT gradient (costs one BPTT step each).
        rule_options: options of rules in a dict, of which the rule takes those it has; so that one word changes the
            rule. An option given as a keyword must be one of the rule's.

    Returns:
        A `History`. A batch in which no target counts makes no update and has no loss; its number is in `skipped_step`.

    Raises:
        InputError: before any weight changes.
        DivergenceError: loss or gradient left the finite numbers; the model holds the weights of its last finite
            loss, and the error's `history` what was recorded.
    """
    return train(prepare(
        model, x, y, mask=mask, ignore_index=ignore_index, window=window, validation=validation, rule=rule,
        rule_options=rule_options, options=options,
        steps=steps, epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer,
        weight_decay=weight_decay, schedule=schedule, warmup=warmup, clip=clip, seed=seed, device=device,
        callbacks=callbacks, progress=progress, validate_every=validate_every, record_every=record_every,
        measure_cosine=measure_cosine, checkpoint=checkpoint, checkpoint_every=checkpoint_every, resume=resume,
    ))  # fmt: skip
