"""Splits and subsets by hash: stable, nested, and of the right size."""

from collections import Counter
from hashlib import blake2b
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.config import SplitConfig
from raycap.datasets.splits import (
    hashed_split,
    is_below_split_folder,
    known_split,
    rank_of,
    split_of_folder,
    split_order,
    subset_limit,
)

GOLDEN_RANKS = [10827, 7429, 5057]
GOLDEN_SPLITS = ["train", "train", "train", "train", "test", "train", "validation", "train"]
IDS = [f"{number % 7}/{number:06d}.jpg" for number in range(20_000)]


def subset(share: float) -> set[str]:
    return {image_id for image_id in IDS if rank_of(image_id) < subset_limit(share)}


def test_subsets_are_nested_and_have_about_their_share() -> None:
    shares = [0.01, 0.1, 0.2, 0.5, 0.99, 1.0]
    subsets = [subset(share) for share in shares]
    for smaller, larger in pairwise(subsets):
        assert smaller < larger
    for share, found in zip(shares, subsets, strict=True):
        assert len(found) == pytest.approx(share * len(IDS), rel=0.1)
    assert subsets[-1] == set(IDS)


@given(st.text(max_size=40), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_no_image_leaves_a_subset_that_grows(image_id: str, one: float, other: float) -> None:
    smaller, larger = sorted([one, other])
    is_in_smaller = rank_of(image_id) < subset_limit(smaller)
    assert not is_in_smaller or rank_of(image_id) < subset_limit(larger)
    assert rank_of(image_id) < subset_limit(1.0)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.3, 0.0), (0.0, 0.5), (0.9, 0.1)])
def test_splits_have_about_their_shares(validation: float, test: float) -> None:
    config = SplitConfig(validation=validation, test=test)
    counts = Counter(hashed_split(image_id, config) for image_id in IDS)
    shares = {"validation": validation, "test": test, "train": 1.0 - validation - test}
    for split, share in shares.items():
        assert counts[split] == pytest.approx(share * len(IDS), rel=0.1, abs=1)


def test_splits_have_the_same_shares_within_a_subset() -> None:
    config = SplitConfig(validation=0.2, test=0.3)
    chosen = subset(0.2)
    counts = Counter(hashed_split(image_id, config) for image_id in chosen)
    assert counts["validation"] == pytest.approx(0.2 * len(chosen), rel=0.1)
    assert counts["test"] == pytest.approx(0.3 * len(chosen), rel=0.1)


def test_the_test_split_stays_when_the_validation_split_grows() -> None:
    small, large = SplitConfig(validation=0.1, test=0.1), SplitConfig(validation=0.4, test=0.1)
    before = {image_id: hashed_split(image_id, small) for image_id in IDS}
    after = {image_id: hashed_split(image_id, large) for image_id in IDS}
    assert {i for i in IDS if before[i] == "test"} == {i for i in IDS if after[i] == "test"}
    assert all(after[i] == "validation" for i in IDS if before[i] == "validation")


def test_another_seed_is_another_split_of_the_same_subset() -> None:
    one, other = SplitConfig(seed=0), SplitConfig(seed=1)
    moved = sum(hashed_split(i, one) != hashed_split(i, other) for i in IDS)
    assert moved > len(IDS) * 0.2


def test_hashes_are_those_of_blake2b_and_must_never_change() -> None:
    expected = blake2b("ü/1.jpg".encode(), digest_size=8, person=b"raycap-subset").digest()
    assert rank_of("ü/1.jpg") == int.from_bytes(expected, "big")
    assert [rank_of(image_id) >> 48 for image_id in IDS[:3]] == GOLDEN_RANKS
    config = SplitConfig(validation=0.25, test=0.25)
    assert [hashed_split(image_id, config) for image_id in IDS[:8]] == GOLDEN_SPLITS


def test_usual_names_of_splits_are_understood() -> None:
    names = ["val", " Dev ", "valid", "testing", "TRAIN", "mine"]
    known = ["validation", "validation", "validation", "test", "train", "mine"]
    assert [known_split(name) for name in names] == known
    assert sorted({"mine", "test", "train", "validation"}, key=split_order) == [
        "train",
        "validation",
        "test",
        "mine",
    ]


@pytest.mark.parametrize(
    ("name", "counts", "is_told"),
    [
        ("train/0.jpg", True, False),
        ("images/val/0.jpg", True, False),
        ("a/train/0.jpg", False, True),
        ("images/a/dev/0.jpg", False, True),
        ("a/b/test/c/0.jpg", False, True),
        ("a/trains/0.jpg", False, False),
        ("a/train.jpg", False, False),
        ("/home/train/0.jpg", False, False),
        ("https://host/train/0.jpg", False, False),
    ],
)
def test_a_folder_of_a_split_counts_at_the_top_only(name: str, counts: bool, is_told: bool) -> None:
    assert (split_of_folder(name) is not None) == counts
    assert is_below_split_folder(name) == is_told
