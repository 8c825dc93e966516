"""Training on a share of the images: nested, repeatable, and complete."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.splits import rank_of, subset_limit
from raycap.errors import DatasetError
from raycap.training.data.plan import EpochPlan, GroupRows, sample_rows
from raycap.training.data.source import read_groups
from tests.support.tiny_dataset import write_dataset

NUM_IMAGES = 90


@pytest.fixture
def dataset(tmp_path: Path) -> CaptionDataset:
    write_dataset(str(tmp_path), f"train:{NUM_IMAGES}", "validation:4")
    return open_dataset(tmp_path, StorageConfig())


def plan_of(dataset: CaptionDataset, share: float) -> EpochPlan:
    return EpochPlan(
        groups=read_groups(dataset, "train", share),
        seed=0,
        num_workers=2,
        batch_size=3,
        shuffle_images=16,
        bucket_by_length=False,
    )


def ids_of(dataset: CaptionDataset, rows: list[GroupRows]) -> list[str]:
    """Look up the ids of planned rows in the files."""
    found: list[str] = []
    for group in rows:
        with pq.ParquetFile(dataset.store.address(group.key)) as file:
            ids = file.read_row_group(group.group, [schema.IMAGE_ID])[schema.IMAGE_ID].to_pylist()
        found += [ids[row] for row in group.rows]
    return found


def epoch_ids(dataset: CaptionDataset, share: float, epoch: int = 0) -> list[str]:
    plan = plan_of(dataset, share)
    windows = [plan.window_rows(epoch, window) for window in range(plan.num_windows)]
    return [image_id for rows in windows for image_id in ids_of(dataset, rows)]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_an_epoch_has_each_image_of_the_share_once_and_no_other(
    dataset: CaptionDataset, share: float
) -> None:
    expected = {
        f"{number:06d}.png"
        for number in range(NUM_IMAGES)
        if rank_of(f"{number:06d}.png") < subset_limit(share)
    }
    for epoch in range(2):
        found = epoch_ids(dataset, share, epoch)
        assert len(found) == len(set(found)) == plan_of(dataset, share).num_images
        assert set(found) == expected


def test_a_smaller_share_is_a_subset_of_a_larger_one(dataset: CaptionDataset) -> None:
    tenth, half, whole = (set(epoch_ids(dataset, share)) for share in (0.1, 0.5, 1.0))
    assert tenth < half < whole
    assert len(whole) == NUM_IMAGES


def test_the_share_refers_to_the_prepared_dataset(dataset: CaptionDataset) -> None:
    config = {**dataset.record.config, "subset": 0.5}
    halved = dataclasses.replace(dataset, record=dataclasses.replace(dataset.record, config=config))
    assert set(epoch_ids(halved, 0.5)) == set(epoch_ids(dataset, 0.25))


def test_the_sample_of_the_training_split_is_within_the_share(dataset: CaptionDataset) -> None:
    groups = read_groups(dataset, "train", 0.3)
    sampled = ids_of(dataset, sample_rows(groups, 5))
    assert len(sampled) == 5
    assert set(sampled) <= set(epoch_ids(dataset, 0.3))


def test_the_rows_are_those_below_the_limit_in_every_row_group(dataset: CaptionDataset) -> None:
    groups = read_groups(dataset, "train", 0.3)
    assert groups.chosen is not None
    assert groups.num_images.tolist() == [len(rows) for rows in groups.chosen]
    assert all(np.all(np.diff(rows) > 0) for rows in groups.chosen)


def test_a_share_without_an_image_is_refused(dataset: CaptionDataset) -> None:
    with pytest.raises(DatasetError, match="1e-09") as caught:
        read_groups(dataset, "train", 1e-9)
    assert caught.value.setting == "train.subset"
