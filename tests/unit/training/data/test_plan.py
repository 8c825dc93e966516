"""The order of training: each image once per epoch, the same for any number of workers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.config import StorageConfig
from raycap.datasets.dataset import identify, open_dataset
from raycap.errors import DatasetError
from raycap.training.data.plan import (
    EpochPlan,
    GroupRows,
    SplitGroups,
    draw_seed,
    sample_rows,
    share_of,
)
from raycap.training.data.source import read_groups
from tests.support.tiny_dataset import write_dataset


def groups_of(sizes: list[int], part_groups: int = 3) -> SplitGroups:
    """Row groups of these sizes, some to a part."""
    numbers = np.arange(len(sizes))
    num_parts = -(-len(sizes) // part_groups)
    return SplitGroups(
        keys=tuple(f"train/part-{number}" for number in range(num_parts)),
        num_bytes=(1,) * num_parts,
        part=numbers // part_groups,
        group=numbers % part_groups,
        num_images=np.array(sizes),
    )


def plan_of(
    sizes: list[int],
    *,
    num_workers: int = 1,
    batch_size: int = 4,
    shuffle_images: int = 16,
    bucket_by_length: bool = False,
    seed: int = 0,
) -> EpochPlan:
    return EpochPlan(
        groups=groups_of(sizes),
        seed=seed,
        num_workers=num_workers,
        batch_size=batch_size,
        shuffle_images=shuffle_images,
        bucket_by_length=bucket_by_length,
    )


def names(rows: list[GroupRows]) -> list[tuple[str, int, int]]:
    return [(group.key, group.group, row) for group in rows for row in group.rows]


def words_of(rows: list[GroupRows]) -> np.ndarray:
    """A caption length for each image, the same wherever it comes."""
    return np.array([draw_seed(*name) % 20 for name in names(rows)])


def steps_of(plan: EpochPlan, epoch: int, step: int = 0) -> list[list[tuple[str, int, int]]]:
    """The images of each step of an epoch, from a step on."""
    found = []
    for span in plan.spans(epoch, step):
        rows = plan.window_rows(epoch, span.window)
        images = names(rows)
        cut = plan.window_steps(epoch, span.window, words_of(rows))
        cut = cut[span.first_step - span.window * plan.steps_per_window :]
        found += [[images[index] for index in chosen] for chosen in cut]
    return found


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@given(
    sizes=SIZES,
    batch_size=st.integers(1, 7),
    num_workers=st.integers(1, 3),
    shuffle_images=st.integers(1, 30),
    bucket=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_an_epoch_has_each_image_once_in_full_steps_but_the_last(
    sizes: list[int],
    batch_size: int,
    num_workers: int,
    shuffle_images: int,
    bucket: bool,
    epoch: int,
) -> None:
    plan = plan_of(
        sizes,
        batch_size=batch_size,
        num_workers=num_workers,
        shuffle_images=shuffle_images,
        bucket_by_length=bucket,
    )
    steps = steps_of(plan, epoch)
    images = [image for step in steps for image in step]
    every = names([plan.groups.rows(i, range(n)) for i, n in enumerate(sizes)])
    assert sorted(images) == sorted(every)
    assert len(steps) == plan.steps_per_epoch
    assert {len(step) for step in steps[:-1]} <= {plan.global_batch}
    assert 1 <= len(steps[-1]) <= plan.global_batch


@given(sizes=SIZES, bucket=st.booleans(), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_an_epoch_continues_from_any_step_as_if_it_had_not_stopped(
    sizes: list[int], bucket: bool, share: float
) -> None:
    plan = plan_of(sizes, bucket_by_length=bucket)
    step = round(share * plan.steps_per_epoch)
    assert steps_of(plan, 2, step) == steps_of(plan, 2)[step:]


@given(sizes=SIZES, bucket=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_order_depends_on_the_global_batch_and_not_on_the_number_of_workers(
    sizes: list[int], bucket: bool
) -> None:
    one, two, four = (
        plan_of(sizes, num_workers=workers, batch_size=8 // workers, bucket_by_length=bucket)
        for workers in (1, 2, 4)
    )
    assert steps_of(one, 1) == steps_of(two, 1) == steps_of(four, 1)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    plan, other = plan_of([8] * 8), plan_of([8] * 8, seed=1)
    orders = [steps_of(plan, 0), steps_of(plan, 1), steps_of(other, 0)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert steps_of(plan, 0) == orders[0]


def test_a_row_group_is_read_in_at_most_two_windows() -> None:
    plan = plan_of([8] * 20, shuffle_images=20)
    read = [
        (group.key, group.group)
        for window in range(plan.num_windows)
        for group in plan.window_rows(0, window)
    ]
    assert len(read) <= 20 + plan.num_windows
    assert max(read.count(group) for group in read) <= 2


def test_steps_have_captions_of_similar_length_in_random_order() -> None:
    plan = plan_of([32], batch_size=4, shuffle_images=32, bucket_by_length=True)
    num_words = np.arange(32) % 8
    steps = plan.window_steps(0, 0, num_words)
    lengths = [sorted(num_words[step].tolist()) for step in steps]
    assert all(step[0] == step[-1] for step in lengths)
    firsts = [step[0] for step in lengths]
    assert firsts != sorted(firsts)
    # What does not fill a step is no longer than the rest.
    lasts = [
        plan_of([33], shuffle_images=36, bucket_by_length=True, seed=seed).window_steps(
            0, 0, np.arange(33)
        )[-1]
        for seed in range(20)
    ]
    assert {len(last) for last in lasts} == {1}
    assert min(int(last[0]) for last in lasts) < 16


@given(num_images=st.integers(0, 20), num_workers=st.integers(1, 6))
def test_the_workers_shares_add_up_to_the_step(num_images: int, num_workers: int) -> None:
    images = list(range(num_images))
    shares = [images[share_of(num_images, num_workers, n)] for n in range(num_workers)]
    assert [image for share in shares for image in share] == images
    assert max(map(len, shares)) == -(-num_images // num_workers)


@given(sizes=SIZES, num_images=st.integers(1, 80))
@settings(max_examples=80, deadline=None)
def test_a_sample_has_as_many_different_images_as_possible(
    sizes: list[int], num_images: int
) -> None:
    groups = groups_of(sizes)
    sample = names(sample_rows(groups, num_images))
    assert len(set(sample)) == len(sample) == min(num_images, sum(sizes))
    assert names(sample_rows(groups, num_images)) == sample


def test_a_sample_comes_from_all_over_the_split() -> None:
    sample = sample_rows(groups_of([10] * 100), 30)
    assert len(sample) >= 5  # row groups
    assert len({group.key for group in sample}) >= 4
    assert any(len(group.rows) < 10 for group in sample)


def test_seeds_are_large_and_differ_by_purpose() -> None:
    seeds = [draw_seed(7, what, epoch, "a") for what in ("x", "y") for epoch in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert draw_seed(1, "2", 3) == draw_seed("1", 2, "3")
    assert draw_seed(12, "3") != draw_seed(1, "23")


def test_a_split_is_read_from_the_footers_of_its_parts(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), "train:40", "validation:5", part_size=16)
    dataset = open_dataset(tmp_path, StorageConfig())
    groups = read_groups(dataset, "train")
    assert groups.total == 40
    assert len(groups.keys) == 3
    assert groups.num_images.tolist() == [16, 16, 8]
    assert read_groups(dataset, "validation").total == 5


def test_a_dataset_without_the_split_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_dataset(str(tmp_path), "train:4")
    with pytest.raises(DatasetError) as caught:
        read_groups(open_dataset(tmp_path, StorageConfig()), "validation")
    assert caught.value.setting == "split.validation"


def test_a_copy_of_a_dataset_has_the_same_identity_and_another_has_not(tmp_path: Path) -> None:
    for name, split in (("a", "train:9"), ("b", "train:9"), ("c", "train:10")):
        write_dataset(str(tmp_path / name), split)
    a, b, c = (identify(open_dataset(tmp_path / name, StorageConfig())) for name in "abc")
    assert a == b
    assert a != c
