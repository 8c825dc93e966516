"""One worker of Ray Train: prepare, open the stream, and run the training loop.

All workers run the loop in step. A decision that one of them makes alone (a stop, a loss that is
not finite) is shared first: a worker that left alone would leave the others waiting.
"""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

import pyarrow as pa
import ray.train
from ray.train.torch import get_device

from raycap.cluster.mailbox import Message, Sender
from raycap.config import TrainEngineConfig
from raycap.errors import DatasetError, RunStopped
from raycap.models.device import peak_device_bytes, pick_device
from raycap.models.kinds import find_trainable_kind
from raycap.models.process import peak_memory_bytes, use_threads
from raycap.results.training import NON_FINITE, EpochRecord, TrainingProgress
from raycap.runs.records import encode_json
from raycap.training.checkpoints import State, write_checkpoint
from raycap.training.data.feed import Batch, Feed
from raycap.training.data.gathering import StreamSpec
from raycap.training.data.pieces import Kind
from raycap.training.data.stream import start_stream
from raycap.training.epochs import LAST, end_epoch, is_over, keep_epoch, save_model
from raycap.training.learner import NonFinite, count_tokens, learning_rate
from raycap.training.preparing import Job, Run, prepare
from raycap.training.workers import Workers

_READ_AHEAD = 2
_SENDER = "training"
_dumps: Any = ray.cloudpickle.dumps  # untyped there


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assignment:
    """The input of every worker."""

    job: Job
    mailbox: Any
    """The actor that the first worker reports to."""
    torch_threads: int
    debug: bool
    """Show Ray's own output."""


def work(settings: dict[str, Assignment]) -> dict[str, Any]:
    """Train as one of the workers; return the end, the state and the peak memory."""
    given = settings["assignment"]
    config = given.job.config
    use_threads(given.torch_threads)
    workers = _workers(config.engine)
    reporter = MailReporter(Sender(given.mailbox, _SENDER))
    store = given.job.open_output()
    run, state, spec = prepare(given.job, store, workers, reporter)
    tables = _tables(spec, state, workers, config.train.num_epochs, debug=given.debug)
    timeout_s = config.engine.stall_timeout_s
    with Feed(tables, workers, run.learner.trainable, timeout_s) as feed:
        end = Loop(run, feed, state).train()
    reporter.flush()
    return {
        "end": str(end),
        "state": state.to_json(),
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_bytes": peak_device_bytes(workers.device),
    }


class MailReporter:
    """A `Reporter` that sends mail to the driver."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    @property
    def wants_stop(self) -> bool:
        """Whether the run is to stop, by the driver's last answer that has arrived."""
        return self._sender.wants_stop

    def tell(self, progress: TrainingProgress) -> None:
        """Send progress: the end of an epoch always, other progress twice per second."""
        if progress.epoch_record is None:
            self._sender.update(progress)
        else:
            self._sender.post(progress)

    def note(self, message: str) -> None:
        """Send an event for the log."""
        self._sender.post(Message(level=logging.INFO, text=message))

    def warn(self, message: str) -> None:
        """Send a warning for the log."""
        self._sender.post(Message(level=logging.WARNING, text=message))

    def flush(self) -> None:
        """Wait until everything sent has arrived."""
        self._sender.flush()


def _workers(engine: TrainEngineConfig) -> Workers:
    context = ray.train.get_context()
    size = context.get_world_size()
    device = get_device()
    if device.type == "cpu" and size == 1 and engine.gpus_per_worker is None:
        device = pick_device()  # an accelerator unknown to Ray
    return Workers(rank=context.get_world_rank(), size=size, device=device)


def _tables(
    spec: StreamSpec, state: State, workers: Workers, num_epochs: int, *, debug: bool
) -> Iterator[pa.Table]:
    """Open the stream, on the first worker for all; return this worker's tables."""
    ends: list[bytes] = []
    if workers.is_first:
        iterators = start_stream(
            spec, epoch=state.epoch, step=state.step, num_epochs=num_epochs, debug=debug
        )
        ends = [_dumps(iterator) for iterator in iterators]
    mine = ray.cloudpickle.loads(workers.share(ends)[workers.rank])
    tables: Iterator[pa.Table] = mine.iter_batches(
        batch_size=None, batch_format="pyarrow", prefetch_batches=_READ_AHEAD
    )
    return iter(tables)


def stop_at_non_finite(run: Run, batch: Batch) -> NoReturn:
    """Record the images of the step, and those whose own loss is not finite; then stop.

    All workers call it, each with its share of the step.

    Raises:
        RunStopped: always.
    """
    # Otherwise one bad image would spoil all others, through the batch norm statistics.
    run.learner.restore_buffers()
    losses = [
        run.learner.measure(batch.only(index), max_captions=1)[0]
        for index in range(len(batch.image_ids))
    ]
    pairs = list(zip(batch.image_ids, losses, strict=True))
    gathered = [pair for pairs in run.workers.gather(pairs) for pair in pairs]
    suspects = [image_id for image_id, loss in gathered if not math.isfinite(loss)]
    # If no loss is finite, the weights are at fault, not the images.
    are_images = 0 < len(suspects) < len(gathered)
    place = f"step {batch.number + 1} of epoch {batch.epoch + 1}"
    if run.workers.is_first:
        found = {
            "epoch": batch.epoch + 1,
            "step": batch.number + 1,
            "image_ids": [image_id for image_id, _ in gathered],
            "suspects": suspects,
        }
        run.store.write(NON_FINITE, encode_json(found))
    raise RunStopped(
        f"the loss is not finite at {place}: {run.store.address(NON_FINITE)} lists its "
        f"{len(gathered)} images, {len(suspects)} of which alone give such a loss; "
        + (
            "remove them from the dataset, and train in a new output"
            if are_images
            else "lower train.lr or optimizer.clip_norm, and train in a new output"
        ),
        uri=run.store.address(NON_FINITE),
        setting=None if are_images else "train.lr",
    )


class End(StrEnum):
    """Why the loop ended."""

    FINISHED = "finished"
    """All epochs are done."""
    EXHAUSTED = "exhausted"
    """`validation.patience` epochs passed without an improvement."""
    INTERRUPTED = "interrupted"
    """A stop was requested; the same command continues."""


class Loop:
    """The training loop, from a given state."""

    def __init__(self, run: Run, feed: Feed, state: State) -> None:
        self._run = run
        self._feed = feed
        self._state = state
        self._num_seen = 0  # images of this invocation; _seen_s is the time of their steps
        self._seen_s = 0.0
        self._mark: float | None = None  # end of the last step, if the next follows directly
        self._written = time.monotonic()
        config = run.config
        self._peak = config.train.lr or find_trainable_kind(config.kind).default_lr

    def train(self) -> End:
        """Train to the end.

        Raises:
            RunStopped: the loss is not finite.
            DatasetError: no image can be read.
        """
        state, run = self._state, self._run
        if run.workers.is_first and state.history and not state.step:
            keep_epoch(run, state)  # its checkpoint exists, its other files perhaps not
        while not is_over(run, state):
            while state.step < run.plan.steps_per_epoch:
                if not self._step():
                    return End.INTERRUPTED
            self._tell(is_validating=True)
            self._tell(record=end_epoch(run, self._feed, state, self._lr(state.num_steps - 1)))
            self._mark = None
        if run.workers.is_first:
            save_model(run, state, LAST)
        is_finished = state.epoch == run.config.train.num_epochs
        return End.FINISHED if is_finished else End.EXHAUSTED

    def _step(self) -> bool:
        """Take one step. Return False, without a step, if a stop was requested."""
        state, workers = self._state, self._run.workers
        batch = self._feed.take(Kind.TRAIN, state.epoch, state.step)
        # The wait for the first batch is the start of the stream, and not counted.
        started = time.monotonic() if self._mark is None else self._mark
        stops = workers.is_first and self._run.reporter.wants_stop
        counts = [count_tokens(batch.tokens), len(batch.image_ids), len(batch.unreadable), stops]
        num_tokens, num_images, num_unreadable, num_stops = map(int, workers.sum(counts))
        if num_stops:
            self._checkpoint()
            return False
        if not num_images:
            self._refuse(batch)
        state.loss_sum += self._learn(batch, num_tokens)
        state.num_tokens += num_tokens
        state.num_images += num_images
        state.num_unreadable += num_unreadable
        state.step += 1
        state.num_steps += 1
        self._mark = time.monotonic()
        state.train_s += self._mark - started
        self._num_seen += num_images
        self._seen_s += self._mark - started
        self._tell()
        if self._mark - self._written >= self._run.config.train.checkpoint_every_s:
            self._checkpoint()
        return True

    def _learn(self, batch: Batch, num_tokens: int) -> float:
        """Take the step; return its token losses, summed over all workers."""
        lr = self._lr(self._state.num_steps)
        try:
            share = self._run.learner.learn(batch, num_tokens, lr, self._state.max_captions)
        except NonFinite:
            stop_at_non_finite(self._run, batch)
        (loss_sum,) = self._run.workers.sum([share])
        if not math.isfinite(loss_sum):
            stop_at_non_finite(self._run, batch)
        return loss_sum

    def _lr(self, step: int) -> float:
        config = self._run.config
        num_steps = self._run.plan.steps_per_epoch * config.train.num_epochs
        return learning_rate(step, num_steps, self._peak, config.optimizer)

    def _checkpoint(self) -> None:
        if self._run.workers.is_first:
            write_checkpoint(self._run.store, self._run.learner, self._state)
        self._written = time.monotonic()
        self._mark = self._written

    def _refuse(self, batch: Batch) -> None:
        """Raise: a step without any image trains nothing, and the next is likely to be the same."""
        unreadable = [
            text for texts in self._run.workers.gather(batch.unreadable) for text in texts
        ]
        raise DatasetError(
            f"none of the {len(unreadable)} images of step {batch.number + 1} of epoch "
            f"{batch.epoch + 1} can be read, such as {unreadable[0]}; make them readable, or "
            "prepare the dataset again with embed.enabled=true",
            setting="embed.enabled",
        )

    def _tell(self, *, is_validating: bool = False, record: EpochRecord | None = None) -> None:
        if not self._run.workers.is_first:
            return
        state, plan = self._state, self._run.plan
        rate = self._num_seen / self._seen_s if self._seen_s else 0.0
        num_epochs = self._run.config.train.num_epochs
        left = (num_epochs - state.epoch) * plan.num_images - state.num_images
        validation_s = [item.validation_s for item in state.history]
        mean_s = sum(validation_s) / len(validation_s) if validation_s else 0.0
        loss = state.loss_sum / state.num_tokens if state.num_tokens else None
        self._run.reporter.tell(
            TrainingProgress(
                epoch=record.epoch if record else state.epoch + 1,
                num_epochs=num_epochs,
                step=plan.steps_per_epoch if record else state.step,
                num_steps=plan.steps_per_epoch,
                loss=record.train_loss if record else loss,
                images_per_s=rate,
                eta_s=left / rate + mean_s * (num_epochs - state.epoch) if rate else None,
                is_validating=is_validating,
                epoch_record=record,
            )
        )
