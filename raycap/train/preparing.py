"""Getting a worker ready: the model that all begin with, the newest checkpoint, enough memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raycap.config import TrainConfig
from raycap.datasets.dataset import open_dataset
from raycap.datasets.splits import TRAIN, rank_of
from raycap.errors import DatasetError, ObjectNotFound
from raycap.models.trainable import Trainable
from raycap.records import check_claimed, encode_json, now
from raycap.schema import CAPTIONS_LIST, IMAGE_ID
from raycap.storage.base import Store
from raycap.train.checkpoints import CHECKPOINTS, find_checkpoints, restore_checkpoint
from raycap.train.context import Reporter, Run
from raycap.train.folders import local_copy, replacing
from raycap.train.gathering import StreamSpec
from raycap.train.learner import Learner
from raycap.train.plan import GroupRows, Plan
from raycap.train.preview import write_preview
from raycap.train.source import rank_limit
from raycap.train.state import State
from raycap.train.trial import fit_memory
from raycap.train.workers import Workers

_INITIAL = f"{CHECKPOINTS}initial/"
_INITIAL_RECORD = f"{CHECKPOINTS}initial.json"
"""Written when the initial model stands whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """How a model comes into being, and comes back from a folder that it was saved to."""

    build: Callable[[TrainConfig, Iterable[str]], Trainable]
    """From settings and all captions of the training split; on the CPU."""
    load: Callable[[Path, TrainConfig], Trainable]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What every worker is told of a run."""

    dataset: str
    output: str
    config: TrainConfig
    plan: Plan
    samples: dict[str, list[GroupRows]]
    models: Models
    origin: dict[str, Any]
    mark: dict[str, Any]
    """The run's fingerprint, which must stand in the output."""


def prepare(
    job: Job, store: Store, workers: Workers, reporter: Reporter
) -> tuple[Run, State, StreamSpec]:
    """Get ready for the loop, on all workers alike.

    Raises:
        ConfigError: this node does not see the output.
        ModelError: the model cannot be built or loaded, or does not fit into memory.
        StorageError: a store refuses.
    """
    check_claimed(store, job.mark)
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
    """Let the first worker build the model that all begin with, unless it stands."""
    if workers.is_first and not _stands(store, _INITIAL_RECORD):
        torch.manual_seed(job.config.train.seed)
        trainable = job.models.build(job.config, _captions(job))
        with replacing(store, _INITIAL) as folder:
            trainable.save(folder, job.config.generation, job.origin)
        store.write(_INITIAL_RECORD, encode_json({"created_at": now()}))
    workers.gather(None)


def _restored(
    job: Job, store: Store, workers: Workers, reporter: Reporter
) -> tuple[Learner, State]:
    """Load the model and the newest checkpoint that is whole, the same on all workers."""
    learner, state = _begin(job, store, workers), None
    name = ""
    if workers.is_first:
        name, state = _newest(store, learner, reporter)
    name = workers.share(name)
    if not name:
        # Anew, as a damaged checkpoint may have left something behind.
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
    """Restore the newest checkpoint that is whole; "" where there is none."""
    for name in find_checkpoints(store):
        try:
            return name, restore_checkpoint(store, name, learner)
        except DatasetError as error:
            reporter.warn(
                f"checkpoint {name} is damaged ({error}): going on from the one before, or from "
                "the start if there is none"
            )
    return "", None


def _fit(learner: Learner, state: State, workers: Workers, reporter: Reporter) -> None:
    """Make micro-batches small enough for memory, and connect the workers."""
    asked = state.max_captions
    state.max_captions = fit_memory(learner, workers, asked)
    if workers.is_first and state.max_captions < asked:
        reporter.warn(
            f"memory does not hold {asked} captions at a time: taking {state.max_captions} at a "
            "time instead, and more micro-batches a step"
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
    """Read all captions of what is trained on."""
    dataset, share = open_dataset(job.dataset, job.config.storage), job.config.train.subset
    limit = rank_limit(dataset, share)
    for page in dataset.pages([TRAIN], [IMAGE_ID, CAPTIONS_LIST]):
        ids, texts = (page[name].to_pylist() for name in (IMAGE_ID, CAPTIONS_LIST))
        for image_id, captions in zip(ids, texts, strict=True):
            if share == 1.0 or rank_of(image_id) < limit:
                yield from captions


def _stands(store: Store, key: str) -> bool:
    try:
        store.read_tail(key, 1)
    except ObjectNotFound:
        return False
    return True
