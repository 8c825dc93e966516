"""The end of an epoch: measure, watch for overfitting, keep the best."""

import time
from dataclasses import asdict

from raycap.train.attention import write_attention
from raycap.train.checkpoints import write_checkpoint
from raycap.train.context import Run
from raycap.train.feed import Feed
from raycap.train.folders import replacing
from raycap.train.state import EpochRecord, State, encode_history
from raycap.train.tensorboard import write_events
from raycap.train.validation import Measured, validate
from raycap.train.watch import (
    Losses,
    best_epoch,
    describe_overfitting,
    gap_trend,
    is_exhausted,
    overfits_since,
)

HISTORY = "history.jsonl"
BEST = "model/"
LAST = "last/"


def end_epoch(run: Run, feed: Feed, state: State, lr: float) -> EpochRecord:
    """Measure the epoch, go on to the next, and write what is to be kept of it."""
    started = time.monotonic()
    generation = run.config.generation
    measured = validate(run.learner, feed, run.workers, state.epoch, state.max_captions, generation)
    seconds = time.monotonic() - started
    record = _record(run, state, measured, lr, seconds) if run.workers.is_first else None
    record = run.workers.share(record)
    state.end_epoch(record)
    if run.workers.is_first:
        write_checkpoint(run.store, run.learner, state)
        keep_epoch(run, state)
        if record.is_best:
            write_attention(run, measured.shown)
        if record.overfits_since is not None and _is_news(state):
            losses = [item.losses for item in state.history]
            run.reporter.warn(describe_overfitting(losses, record.overfits_since))
    return record


def keep_epoch(run: Run, state: State) -> None:
    """Write what is to be kept of the last epoch beside its checkpoint; called right after it."""
    if state.history[-1].is_best:
        save_model(run, state, BEST)
    run.store.write(HISTORY, encode_history(state.history))
    if run.config.train.tensorboard:
        write_events(run.store, state.history[-1])


def is_over(run: Run, state: State) -> bool:
    """Whether all epochs are done, or patience is at its end."""
    settings = run.config.validation
    values = [record.value(settings.metric) for record in state.history]
    is_done = state.epoch == run.config.train.num_epochs
    return is_done or is_exhausted(values, settings.metric, settings.patience)


def save_model(run: Run, state: State, prefix: str) -> None:
    """Write the model as it is after the last epoch, with the averaged weights if there are any."""
    record = state.history[-1]
    training = {**run.origin, "epoch": record.epoch, "metrics": asdict(record)}
    with replacing(run.store, prefix) as folder, run.learner.averaged():
        run.learner.trainable.save(folder, run.config.generation, training)


def _record(
    run: Run, state: State, measured: Measured, lr: float, validation_s: float
) -> EpochRecord:
    now = Losses(fitted=measured.fitted_loss, validation=measured.validation_loss)
    losses = [*(record.losses for record in state.history), now]
    metric = run.config.validation.metric
    value = now.validation if metric == "loss" else measured.scores[metric]
    values = [*(record.value(metric) for record in state.history), value]
    return EpochRecord(
        epoch=state.epoch + 1,
        num_steps=state.num_steps,
        num_images=state.num_images,
        num_unreadable=state.num_unreadable,
        lr=lr,
        train_loss=state.loss_sum / max(1, state.num_tokens),
        fitted_loss=now.fitted,
        validation_loss=now.validation,
        gap=now.gap,
        gap_trend=gap_trend(losses),
        overfits_since=overfits_since(losses),
        scores=measured.scores,
        is_best=best_epoch(values, metric) == len(values),
        images_per_s=round(state.num_images / state.train_s, 2) if state.train_s else 0.0,
        train_s=round(state.train_s, 2),
        validation_s=round(validation_s, 2),
    )


def _is_news(state: State) -> bool:
    """Whether the watch says so for the first time, or names another epoch than before."""
    told = [record.overfits_since for record in state.history]
    return len(told) == 1 or told[-1] != told[-2]
