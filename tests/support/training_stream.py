"""The stream of training without Ray: the same stages, called one after the other."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from raycap.config import AugmentConfig, ImageConfig, StorageConfig, TrainConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import open_dataset
from raycap.datasets.splits import TRAIN, VALIDATION
from raycap.training.data.feed import Batch, Feed
from raycap.training.data.gathering import StreamSpec, gather
from raycap.training.data.pieces import WORK, WORKER, Kind
from raycap.training.data.plan import EpochPlan, sample_rows
from raycap.training.data.source import read_groups
from raycap.training.data.stream import load, work_from
from raycap.training.workers import Workers
from tests.support.tiny_trainable import TinyTrainable, build_tiny

UNCHANGED = AugmentConfig(enabled=False)


def tiny_config(**sections: Any) -> TrainConfig:
    """Settings for the tiny model: a higher learning rate, no dropout, quick validation."""
    train = {"lr": 0.01, "batch_size": 8, "num_epochs": 2, **sections.pop("train", {})}
    architecture = {"dropout": 0.0, **sections.pop("architecture", {})}
    values = {"kind": "cnn-lstm", "train": train, "architecture": architecture, **sections}
    return validate_config(TrainConfig, values)


def tiny_model() -> TinyTrainable:
    """The tiny model, with the words of the scenes."""
    torch.manual_seed(0)
    words = "the top bottom is red green blue a picture with at of it"
    return build_tiny(tiny_config(), [words])


def one_worker(rank: int = 0, size: int = 1) -> Workers:
    return Workers(rank=rank, size=size, device=torch.device("cpu"))


def make_spec(
    dataset: str,
    *,
    num_workers: int = 1,
    batch_size: int = 8,
    shuffle_images: int = 32,
    num_sampled: int = 1000,
    augment: AugmentConfig = UNCHANGED,
    bucket_by_length: bool = True,
) -> StreamSpec:
    source = open_dataset(dataset, StorageConfig())
    groups = read_groups(source, TRAIN)
    plan = EpochPlan(
        groups=groups,
        seed=0,
        num_workers=num_workers,
        batch_size=batch_size,
        shuffle_images=shuffle_images,
        bucket_by_length=bucket_by_length,
    )
    return StreamSpec(
        dataset=source.store.uri,
        plan=plan,
        samples={
            Kind.VALIDATION: sample_rows(read_groups(source, VALIDATION), num_sampled),
            Kind.FITTED: sample_rows(groups, num_sampled),
        },
        augment=augment,
        image=ImageConfig(),
        storage=StorageConfig(),
        target=tiny_model().target,
    )


def tables_of(
    spec: StreamSpec, *, epoch: int = 0, step: int = 0, num_epochs: int = 1, worker: int = 0
) -> Iterator[pa.Table]:
    """What a worker gets from the stream."""
    for row in work_from(spec, epoch, step, num_epochs):
        for gathered in gather(pa.Table.from_pylist([row], schema=WORK), spec):
            if gathered[WORKER][0].as_py() == worker:
                yield load(gathered, spec)


def batches_of(spec: StreamSpec, kind: Kind = Kind.TRAIN, **place: int) -> list[Batch]:
    """A worker's batches of one kind, in order, from an epoch and step on."""
    worker = place.get("worker", 0)
    tables = tables_of(spec, **place)
    epochs = range(place.get("epoch", 0), place.get("num_epochs", 1))
    found: list[Batch] = []
    with Feed(tables, one_worker(worker, spec.plan.num_workers), tiny_model(), 60.0) as feed:
        for epoch in epochs:
            first = place.get("step", 0) if epoch == epochs[0] else 0
            taken = [
                feed.take(Kind.TRAIN, epoch, number)
                for number in range(first, spec.plan.steps_per_epoch)
            ]
            for sample in (Kind.VALIDATION, Kind.FITTED):
                number = 0
                while True:
                    taken.append(feed.take(sample, epoch, number))
                    number += 1
                    if taken[-1].is_last:
                        break
            found += [batch for batch in taken if batch.kind == kind]
    return found
