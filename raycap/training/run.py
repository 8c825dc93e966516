"""`raycap train` from end to end: open the run, train on the cluster, write the result."""

import logging
import time
from pathlib import Path
from typing import Any

from raycap.cluster.start import ray_cluster
from raycap.config import ModelKind, TrainConfig
from raycap.config.loading import override
from raycap.datasets.dataset import CaptionDataset, identify, open_dataset
from raycap.datasets.splits import TRAIN, VALIDATION
from raycap.errors import RunConflict
from raycap.models.trainable import build_trainable, load_trainable
from raycap.results.training import (
    TRAINING,
    OnTrainingProgress,
    Training,
    read_training,
    write_training,
)
from raycap.runs.opening import Claim, Run, open_run
from raycap.runs.records import RUN, encode_json, now, read_json, versions
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from raycap.training.checkpoints import CHECKPOINTS, find_checkpoints, keep_newest
from raycap.training.data.pieces import Kind
from raycap.training.data.plan import EpochPlan, sample_rows
from raycap.training.data.source import read_groups
from raycap.training.epochs import BEST, LAST, check_tensorboard
from raycap.training.fitting import Fitting, Outcome
from raycap.training.loop import End
from raycap.training.preparing import Job, Models
from raycap.training.resources import fit_resources

logger = logging.getLogger(__name__)

MODELS = Models(build=build_trainable, load=load_trainable)
"""The models of raycap."""


def train(  # noqa: PLR0913  the public call: all but two by keyword
    dataset: str | Path,
    output: str | Path,
    *,
    config: TrainConfig | None = None,
    kind: ModelKind | None = None,
    init: str | None = None,
    models: Models = MODELS,
    on_progress: OnTrainingProgress | None = None,
    debug: bool = False,
) -> Training:
    """Train a captioner on a caption dataset, into an output.

    The same call continues an interrupted run at the step of its last checkpoint, and does nothing
    if the run is complete. With a higher `train.num_epochs` it continues a complete run.

    Args:
        dataset: a dataset of `raycap prepare`: a folder or `s3://bucket/prefix`.
        output: a folder or `s3://bucket/prefix`.
        config: all settings; None for the defaults.
        kind: shorthand for the setting `kind`.
        init: shorthand for the setting `init`.
        models: how the model is built and loaded; pass your own to train your own model.
        on_progress: called about twice per second, and at the end of each epoch.
        debug: show Ray's and the workers' own output.

    Returns:
        The result, as written to `training.json`.

    Raises:
        ConfigError: a setting, the dataset's address or the output's is wrong.
        DatasetError: the dataset is damaged, or lacks a split.
        RunConflict: the output belongs to another run, or another writer holds it.
        RunStopped: the run was interrupted, a loss was not finite, or workers died too often.
        StorageError: a store refuses.
        ModelError: the model cannot be found, loaded or trained.
    """
    started = time.monotonic()
    config = override(config or TrainConfig(), {"kind": kind, "init": init})
    if config.train.tensorboard:
        check_tensorboard()
    source = open_dataset(dataset, config.storage)
    store = open_store(str(output), config.storage)
    claim = TrainingClaim(training_fingerprint(identify(source), config), config)
    with open_run(store, claim) as run:
        store = run.store
        found = _finished(store, config)
        for prefix in ("", BEST, LAST):
            store.remove_leftovers(prefix)
        if found is None:
            with ray_cluster(debug=debug) as is_fixed:
                resources = fit_resources(config.engine, is_fixed=is_fixed)
                job = _job(source, run, config, models, claim.fingerprint)
                fitting = Fitting(job, resources, debug=debug)
                outcome = fitting.follow(run.lock, on_progress or (lambda _: None))
            found = _sum_up(job, outcome, started)
            run.finish(write_training, found)
        if config.train.keep_checkpoint:
            keep_newest(store)
        else:
            store.delete_all(CHECKPOINTS)
    return found


def _finished(store: Store, config: TrainConfig) -> Training | None:
    """Return the result of a run that is complete; None if there is something left to train."""
    found = read_training(store)
    is_short = found is not None and found.num_epochs < config.train.num_epochs
    if found is not None and is_short and found.end == End.FINISHED:
        logger.info("continued epochs=%d to=%d", found.num_epochs, config.train.num_epochs)
        store.delete(TRAINING)
        return None
    return found


def training_fingerprint(dataset: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return what decides a run's model: two runs alike in this may share an output.

    How the work is spread over workers is not part of it, as long as each step keeps its images.
    """
    train = config.train.model_dump(
        mode="json",
        exclude={
            "batch_size",
            "num_accumulated",
            "checkpoint_every_s",
            "keep_checkpoint",
            "tensorboard",
        },
    )
    sections = {"architecture", "blip", "augment", "optimizer", "validation", "generation", "image"}
    return {
        "dataset": dataset,
        "kind": config.kind,
        "init": config.init,
        **config.model_dump(mode="json", include=sections),
        "train": {**train, "global_batch": config.train.batch_size * config.engine.num_workers},
        "engine": {"shuffle_images": config.engine.shuffle_images},
    }


class TrainingClaim(Claim):
    """A training run's claim.

    A run that took no step, say for a wrong setting, is replaced, and one with fewer epochs is
    continued: the learning rate of what follows is that of the longer run.
    """

    def may_replace(self, store: Store) -> bool:
        """Whether the other run took no step, or can be extended to this one.

        Raises:
            RunConflict: the run could be extended, but its checkpoints are gone.
        """
        num_epochs = self._fewer_epochs(store)
        if find_checkpoints(store):
            return num_epochs is not None
        is_complete = read_training(store) is not None
        if is_complete and num_epochs is not None:
            raise RunConflict(
                f"{store.uri}: a finished run of {num_epochs} epochs whose checkpoints were "
                "deleted, so that it cannot be continued; train in another output, with "
                f"init={store.address(LAST.rstrip('/'))}",
                uri=store.uri,
                setting="train.num_epochs",
            )
        return not is_complete

    def replace(self, store: Store) -> None:
        """Extend the run, or replace it and delete what it prepared."""
        if find_checkpoints(store):
            before = read_json(store, RUN)
            extended = {"fingerprint": self.fingerprint, "extended_at": now()}
            store.write(RUN, encode_json({**before, **extended}))
        else:
            store.delete_all(CHECKPOINTS)
            super().replace(store)

    def _fewer_epochs(self, store: Store) -> int | None:
        """Return the epochs of the run in the output if it differs in nothing but fewer epochs."""
        theirs = self.find(store) or {}
        train = theirs.get("train")
        num_epochs = train.get("num_epochs") if isinstance(train, dict) else None
        if not isinstance(train, dict) or not isinstance(num_epochs, int):
            return None
        ours = self.fingerprint["train"]["num_epochs"]
        extended = {**theirs, "train": {**train, "num_epochs": ours}}
        return num_epochs if extended == self.fingerprint and num_epochs < ours else None


def _job(
    source: CaptionDataset,
    run: Run,
    config: TrainConfig,
    models: Models,
    fingerprint: dict[str, Any],
) -> Job:
    """Describe the whole run for its workers."""
    groups = read_groups(source, TRAIN, config.train.subset)
    num_sampled = config.validation.num_images
    plan = EpochPlan(
        groups=groups,
        seed=config.train.seed,
        num_workers=config.engine.num_workers,
        batch_size=config.train.batch_size,
        shuffle_images=config.engine.shuffle_images,
        bucket_by_length=config.train.bucket_by_length,
    )
    logger.info(
        "planned images=%d steps=%d epochs=%d workers=%d",
        plan.num_images,
        plan.steps_per_epoch,
        config.train.num_epochs,
        plan.num_workers,
    )
    return Job(
        dataset=source.store.uri,
        output=run.store.uri,
        lock_token=run.lock.token,
        config=config,
        plan=plan,
        samples={
            Kind.VALIDATION: sample_rows(read_groups(source, VALIDATION), num_sampled),
            Kind.FITTED: sample_rows(groups, num_sampled),
        },
        models=models,
        origin={
            "dataset": fingerprint["dataset"],
            "config": config.model_dump(mode="json"),
            "versions": versions(),
        },
        fingerprint=fingerprint,
    )


def _sum_up(job: Job, outcome: Outcome, started: float) -> Training:
    state, config = outcome.state, job.config
    history = state.history
    metric = config.validation.metric
    best = next(record for record in reversed(history) if record.is_best)  # its model is kept
    train_s = sum(record.train_s for record in history)
    num_images = sum(record.num_images for record in history)
    return Training(
        output=job.output,
        dataset=job.dataset,
        kind=config.kind,
        end=outcome.end,
        num_images=job.plan.num_images,
        num_epochs=len(history),
        num_steps=state.num_steps,
        global_batch=job.plan.global_batch,
        micro_batch=state.max_captions,
        metric=metric,
        best=best,
        last=history[-1],
        history=history,
        overfits_since=history[-1].overfits_since,
        images_per_s=round(num_images / train_s, 2) if train_s else 0.0,
        wall_s=round(time.monotonic() - started, 2),
        peak_memory_bytes=outcome.peak_memory_bytes,
        peak_device_bytes=outcome.peak_device_bytes,
        versions=versions(),
        finished_at=now(),
    )
