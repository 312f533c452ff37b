"""The loop of `fit`: draw a batch, `step`, record, call back, validate, store; and stop without losing anything."""

import sys
import time
from typing import Any

import torch
from tqdm import tqdm

from hbll_seq.data.batch import Batch
from hbll_seq.data.shared_streams import SharedStreams
from hbll_seq.errors import DivergenceError, LostRankError
from hbll_seq.training.callbacks import CallbackState
from hbll_seq.training.evaluation import evaluate_spread
from hbll_seq.training.gradient_cosine import gradient_cosine
from hbll_seq.training.history import History, versions
from hbll_seq.training.last_good import LastGood
from hbll_seq.training.modes import training_mode
from hbll_seq.training.prepare import Prepared
from hbll_seq.training.record import record, record_validation
from hbll_seq.training.run_state import Trained
from hbll_seq.training.seeding import Draws
from hbll_seq.training.shared import counting
from hbll_seq.training.spread import agree, spread_state
from hbll_seq.training.step import StepInfo, all_finite, clear_gradients, divergence, update

APART = 1_000_003  # between the seeds of ranks


def train(p: Prepared) -> History:
    """Make the updates of a prepared run; return its history.

    An interrupt ends the run with its last whole update. However the run ends, the global random state and the modes of
    the model's modules are restored, and `.grad` is cleared.

    Raises:
        InputError: a checkpoint that does not fit; no weight has changed then.
        DivergenceError: see `fit`.
    """
    run = History(p.model.inner, p.config, versions())
    trained = Trained(run, p.model.inner, p.optimizer, p.rule, p.callbacks, p.settings, p.checkpoint, p.carried,
                      writes=p.chief)  # fmt: skip
    first, callback_states = trained.begin(p.resume)
    if p.ranks is not None:
        agree(p.ranks, first, p.model)
    last_good = LastGood(p.model.parameters())
    bar = tqdm(total=p.total, initial=min(first, p.total), disable=not p.progress_bar, unit="step", dynamic_ncols=True,
               mininterval=0.5, file=sys.stdout, leave=True)  # fmt: skip  # stdout: a notebook shows stderr as an error
    try:
        # the mode comes back even if an interrupt hits the exit of an inner `no_grad`
        with trained, training_mode(p.model), torch.set_grad_enabled(torch.is_grad_enabled()):
            _updates(p, trained, last_good, bar, first, callback_states)
    except LostRankError:
        last_good.undo_unfinished()
        raise
    except KeyboardInterrupt:
        last_good.undo_unfinished()
        run.stopped_reason = "interrupted"
    except DivergenceError as error:  # also from a rule
        last_good.restore()
        run.stopped_reason, error.history = "diverged", run
        raise
    finally:
        bar.close()
        if isinstance(p.source, SharedStreams):
            p.source.close()
        clear_gradients(p.model, p.rule, p.optimizer)
        for group, peak in zip(p.optimizer.param_groups, p.peaks, strict=True):
            group["lr"] = peak  # an optimiser of the user's may train on
    p.callbacks.call("on_fit_end", run)
    return run


def _updates(
    p: Prepared, trained: Trained, last_good: LastGood, bar: Any, first: int, callback_states: list[CallbackState]
) -> None:
    """Make all updates from `first` on, with validations and callbacks between them, until the last or until a callback
    stops.
    """
    run = trained.run
    began = time.perf_counter() - (run.history["seconds"][-1] if run.history.get("seconds") else 0.0)
    stop = p.callbacks.call("on_fit_begin", run)
    trained.ready(callback_states)
    rank = 0 if p.ranks is None else p.ranks.world.rank
    draws = Draws(p.model, p.rule, p.seed + APART * rank, p.device)  # of dropout and the like
    called = p.ranks is not None and p.ranks.any(bool(p.callbacks))  # perhaps those of one rank alone
    if p.ranks.any(stop) if p.ranks is not None and called else stop:
        run.stopped_reason = "callback"
        return
    for i in range(first, p.total):
        number = i + 1
        numbers = range(i * p.accumulate, number * p.accumulate)
        drawn = [p.carried.enter(p.source.batch(j, p.batch_size, p.seed), j) for j in numbers]
        batches = counting(drawn, p.source, p.ranks)
        if batches:
            factor = p.factor(i)
            info = _update(p, run, last_good, draws, i, batches, factor)
            p.carried.leave(info.result, number)
            blocks = i % p.record_every == 0 or number == p.total
            record(run, info, number, p.lr * factor, time.perf_counter() - began, blocks)
            if p.progress_bar:
                shown = {"loss": info.result.loss, **p.model.metric_values()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in shown.items()}, refresh=False)
        else:
            with draws.of(i):
                if p.ranks is not None and drawn[0].whole is not None:
                    p.carried.take_over(spread_state(p.model, drawn[0], p.device, p.rule, p.ranks))
                else:
                    p.carried.pass_over(drawn[0].to(p.device))
            run.add(skipped_step=number)
        bar.update()
        stop = p.callbacks.call("on_step_end", run, number)
        if p.held_out is not None and p.due(p.validate_every, number):
            with draws.of(i):
                figures = evaluate_spread(p.model, p.held_out, max(p.batch_size, 64), p.ranks)
            record_validation(run, figures, number)
            stop = p.callbacks.call("on_validation", run, number) or stop
        if p.checkpoint is not None and p.due(p.checkpoint_every, number):
            trained.store(number)
        stop = p.ranks.any(stop) if p.ranks is not None and called else stop
        if stop:
            run.stopped_reason = "early_stopping" if run.stopped_reason == "early_stopping" else "callback"
            return


def whole_batch(p: Prepared, batch: Batch, i: int) -> Batch:
    """Return all of the batch of update i (from 0), of which a rank may have read its part alone."""
    if not isinstance(p.source, SharedStreams):
        return batch
    return p.source.whole_batch(i, p.batch_size, p.seed)._replace(state=batch.state)


def _update(
    p: Prepared, run: History, last_good: LastGood, draws: Draws, i: int, batches: list[Batch], factor: float
) -> StepInfo:
    """Make update i (from 0); raise if it is not finite."""
    for group, peak in zip(p.optimizer.param_groups, p.peaks, strict=True):
        group["lr"] = peak * factor
    done = i / p.total
    with draws.of(i) as anew:
        if p.measure_cosine and i % p.measure_cosine == 0:
            first = whole_batch(p, batches[0], i).to(p.device)
            run.add(gradient_cosine=gradient_cosine(p.model, first, p.rule, anew, done), cosine_step=i + 1)
            anew()
        last_good.begin()
        info = update(p.model, batches, p.rule, p.optimizer, p.clip, done, p.device, p.ranks)
        last_good.end(finite=info.updated)
    if not info.updated or not all_finite(last_good.weights):
        raise divergence(info, i + 1)
    return info
