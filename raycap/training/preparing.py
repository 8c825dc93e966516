"""Preparation of a worker: the initial model, the newest checkpoint, the micro-batch that fits.

`augmentation.jpg` is drawn first, so that a person can check the augmentation before hours of
training.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from raycap.config import TrainConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.splits import TRAIN, rank_of
from raycap.errors import DatasetError, ImageError, ModelError
from raycap.images.decoding import prepare_process
from raycap.models.process import is_out_of_memory
from raycap.models.trainable import Trainable
from raycap.results.training import PREVIEW, TrainingProgress
from raycap.runs.opening import check_claimed
from raycap.runs.records import LOCK, encode_json, now
from raycap.schema import CAPTIONS_LIST, IMAGE_ID
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from raycap.training.checkpoints import (
    CHECKPOINTS,
    State,
    find_checkpoints,
    local_copy,
    replacing,
    restore_checkpoint,
)
from raycap.training.data.augmentation import picture_grid
from raycap.training.data.feed import Batch
from raycap.training.data.gathering import StreamSpec, read_images
from raycap.training.data.pieces import Kind
from raycap.training.data.plan import EpochPlan, GroupRows, sample_rows
from raycap.training.data.source import rank_limit
from raycap.training.data.stream import changed, file_of, original
from raycap.training.learner import Learner
from raycap.training.workers import Workers

_NUM_IMAGES = 6
_NUM_EPOCHS = 5
_LONG_CAPTION = "a " * 1000
"""Longer than any model accepts: it is cut to the maximum length."""
_INITIAL = f"{CHECKPOINTS}initial/"
_INITIAL_RECORD = f"{CHECKPOINTS}initial.json"
"""Written when the initial model is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Functions that build a model, and load it from a folder."""

    build: Callable[[TrainConfig, Iterable[str]], Trainable]
    """Builds from the settings and all captions of the training split; on the CPU."""
    load: Callable[[Path, TrainConfig], Trainable]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A training run, as sent to every worker."""

    dataset: str
    output: str
    config: TrainConfig
    plan: EpochPlan
    samples: dict[str, list[GroupRows]]
    models: Models
    origin: dict[str, Any]
    fingerprint: dict[str, Any]
    """The run's fingerprint, which the output must hold."""
    lock_token: str = ""
    """Of the driver's lock, which the output must hold for as long as workers write; "" for none,
    as in tests of workers alone."""

    def open_output(self) -> Store:
        """Open the output for a worker, whose writes fail once another run has taken over."""
        store = open_store(self.output, self.config.storage)
        return store.witnessed(LOCK, self.lock_token) if self.lock_token else store


@runtime_checkable
class Reporter(Protocol):
    """Receives the first worker's progress."""

    @property
    def wants_stop(self) -> bool:
        """Whether to stop at the next step."""

    def tell(self, progress: TrainingProgress) -> None:
        """Report progress; some reports may be dropped."""

    def note(self, message: str) -> None:
        """Report an event."""

    def warn(self, message: str) -> None:
        """Report something that a person should act on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A training run, from the view of one worker."""

    config: TrainConfig
    plan: EpochPlan
    store: Store
    """The output."""
    workers: Workers
    learner: Learner
    reporter: Reporter
    origin: dict[str, Any]
    """Provenance, which a saved model records: dataset, settings, versions."""


def fit_memory(learner: Learner, workers: Workers, max_captions: int) -> int:
    """Find how many captions of maximum length fit into memory; halve their number until they do.

    The memory of the optimizer and of the gradient exchange is reserved meanwhile. The gradients of
    the trial step remain in place.

    Returns:
        `max_captions`, or the result of halving it: the same number on all workers.

    Raises:
        ModelError: memory is too small for a single caption.
    """
    while True:
        fits = _fits(learner, workers, max_captions)
        if workers.least(int(fits)):
            return max_captions
        if max_captions == 1:
            raise ModelError(
                "memory is too small to train on one image at a time; use a smaller model or "
                "image, train.precision=bf16, or (blip only) blip.gradient_checkpointing=true",
                setting="train.precision",
            )
        max_captions = -(-max_captions // 2)


def _fits(learner: Learner, workers: Workers, num_captions: int) -> bool:
    try:
        reserved = _reserve(learner, workers)
        learner.try_out(_longest_batch(learner, num_captions))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        learner.optimizer.zero_grad()
        _release(workers.device)
        return False
    del reserved
    _release(workers.device)
    return True


def _reserve(learner: Learner, workers: Workers) -> list[torch.Tensor]:
    """Reserve what training needs besides: two moments, unless they exist, and buckets."""
    num_moments = 0 if learner.optimizer.state else 2
    num_buckets = 1 if workers.size > 1 else 0
    return [
        torch.empty_like(value)
        for value in learner.trained.values()
        for _ in range(num_moments + num_buckets)
    ]


def _longest_batch(learner: Learner, num_captions: int) -> Batch:
    target = learner.trainable.target
    return Batch(
        kind=Kind.TRAIN,
        epoch=0,
        number=0,
        is_last=False,
        pixels=torch.zeros((num_captions, 3, target.height_px, target.width_px), dtype=torch.uint8),
        image_ids=[],
        owners=torch.arange(num_captions),
        offsets=torch.arange(num_captions),
        tokens=learner.trainable.encode([_LONG_CAPTION] * num_captions),
        references=[],
        unreadable=[],
    )


def _release(device: torch.device) -> None:
    """Return unused memory to the device."""
    if device.type != "cpu":
        torch.accelerator.memory.empty_cache()


def write_preview(store: Store, spec: StreamSpec) -> None:
    """Draw some training images: each unchanged, and as augmented in the first epochs."""
    prepare_process(spec.image)
    rows = []
    for image in read_images(sample_rows(spec.plan.groups, _NUM_IMAGES), spec):
        try:
            file = file_of(image.file(), image.uri, image.digest, spec)
            variants = [changed(file, epoch, image.image_id, spec) for epoch in range(_NUM_EPOCHS)]
            rows.append([original(file, spec), *variants])
        except ImageError:
            continue  # training will report it
    if rows:
        store.write(PREVIEW, picture_grid(rows))


def prepare(
    job: Job, store: Store, workers: Workers, reporter: Reporter
) -> tuple[Run, State, StreamSpec]:
    """Prepare the loop, in the same way on all workers.

    Raises:
        ConfigError: this node sees another output.
        ModelError: the model cannot be built or loaded, or memory is too small for it.
        StorageError: a store refuses.
    """
    check_claimed(store, job.fingerprint)
    _build_initial(job, store, workers)
    learner, state = _restored(job, store, workers, reporter)
    _fit(learner, state, workers, reporter)
    run = Run(
        config=job.config,
        plan=job.plan,
        store=store,
        workers=workers,
        learner=learner,
        reporter=reporter,
        origin=job.origin,
    )
    spec = _stream_spec(job, learner.trainable)
    if workers.is_first and not state.num_steps:
        write_preview(store, spec)
    return run, state, spec


def _build_initial(job: Job, store: Store, workers: Workers) -> None:
    """Build the initial model on the first worker, unless it exists."""
    if workers.is_first and not store.exists(_INITIAL_RECORD):
        torch.manual_seed(job.config.train.seed)
        trainable = job.models.build(job.config, _captions(job))
        with replacing(store, _INITIAL) as folder:
            trainable.save(folder, job.config.generation, job.origin)
        store.write(_INITIAL_RECORD, encode_json({"created_at": now()}))
    workers.gather(None)


def _restored(
    job: Job, store: Store, workers: Workers, reporter: Reporter
) -> tuple[Learner, State]:
    """Load the model and the newest intact checkpoint, the same on all workers."""
    learner, state = _begin(job, store, workers), None
    name = ""
    if workers.is_first:
        name, state = _newest(store, learner, reporter)
    name = workers.share(name)
    if not name:
        # Load again, because a damaged checkpoint may be partly restored.
        learner, state = _begin(job, store, workers), None
    elif state is None:
        state = restore_checkpoint(store, name, learner)
    if state is None:
        train = job.config.train
        return learner, State(max_captions=-(-train.batch_size // train.num_accumulated))
    if workers.is_first:
        reporter.note(f"resumed epoch={state.epoch + 1} step={state.step} from={name}")
    return learner, state


def _begin(job: Job, store: Store, workers: Workers) -> Learner:
    torch.manual_seed(job.config.train.seed)
    with local_copy(store, _INITIAL) as folder:
        trainable = job.models.load(folder, job.config)
    return Learner(trainable, job.config, workers)


def _newest(store: Store, learner: Learner, reporter: Reporter) -> tuple[str, State | None]:
    """Restore the newest intact checkpoint; return its name, "" if there is none."""
    for name in find_checkpoints(store):
        try:
            return name, restore_checkpoint(store, name, learner)
        except DatasetError as error:
            reporter.warn(
                f"checkpoint {name} is damaged ({error}): continuing from the one before, or from "
                "the start if there is none"
            )
    return "", None


def _fit(learner: Learner, state: State, workers: Workers, reporter: Reporter) -> None:
    """Limit micro-batches to what fits into memory, and connect the workers."""
    asked = state.max_captions
    state.max_captions = fit_memory(learner, workers, asked)
    if workers.is_first and state.max_captions < asked:
        reporter.warn(
            f"{asked} captions do not fit into memory: using micro-batches of "
            f"{state.max_captions} captions, and more of them per step"
        )
    learner.connect()


def _stream_spec(job: Job, trainable: Trainable) -> StreamSpec:
    return StreamSpec(
        dataset=job.dataset,
        plan=job.plan,
        samples=job.samples,
        augment=job.config.augment,
        image=job.config.image,
        storage=job.config.storage,
        target=trainable.target,
    )


def _captions(job: Job) -> Iterator[str]:
    """Yield all captions of the training images."""
    dataset, share = open_dataset(job.dataset, job.config.storage), job.config.train.subset
    limit = rank_limit(dataset, share)
    for page in dataset.pages([TRAIN], [IMAGE_ID, CAPTIONS_LIST]):
        ids, texts = (page[name].to_pylist() for name in (IMAGE_ID, CAPTIONS_LIST))
        for image_id, captions in zip(ids, texts, strict=True):
            if share == 1.0 or rank_of(image_id) < limit:
                yield from captions
