"""Lengths: means, medians and distances from histograms, against the lengths one by one."""

import statistics
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.metrics.lengths import Histogram, count_lengths, mean_length, median_length, wasserstein
from tests.support.token_corpora import parted

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=40)


def captions_of(lengths: list[int]) -> list[list[str]]:
    return [["a"] * length for length in lengths]


def distance_by_definition(first: list[int], second: list[int]) -> Fraction:
    """Pair captions off by length, each as often as makes both sides as many."""
    size = lcm(len(first), len(second))
    one = sorted(first * (size // len(first)))
    other = sorted(second * (size // len(second)))
    return Fraction(sum(abs(a - b) for a, b in zip(one, other, strict=True)), size)


@given(LENGTHS)
def test_mean_and_median_are_those_of_the_lengths(lengths: list[int]) -> None:
    histogram = count_lengths(captions_of(lengths))
    assert histogram == Counter(lengths)
    assert mean_length(histogram) == statistics.fmean(lengths)
    assert median_length(histogram) == statistics.median(lengths)


@given(parted(LENGTHS))
def test_histograms_of_any_parts_add_up_to_that_of_the_whole(
    drawn: tuple[list[int], list[list[int]]],
) -> None:
    lengths, parts = drawn
    counted = [count_lengths(captions_of([lengths[at] for at in part])) for part in parts]
    whole = sum(counted, Counter[int]())
    assert whole == count_lengths(captions_of(lengths))
    assert mean_length(whole) == mean_length(Counter(lengths))


@given(LENGTHS, LENGTHS)
def test_wassersteins_distance_is_that_of_captions_paired_off(
    first: list[int], second: list[int]
) -> None:
    expected = float(distance_by_definition(first, second))
    assert wasserstein(Counter(first), Counter(second)) == expected
    assert wasserstein(Counter(second), Counter(first)) == expected
    assert wasserstein(Counter(first), Counter(first)) == 0


@given(LENGTHS, st.integers(1, 20))
def test_captions_that_are_all_shorter_by_as_much_are_as_far_away(
    lengths: list[int], gap: int
) -> None:
    longer = Counter(length + gap for length in lengths)
    assert wasserstein(Counter(lengths), longer) == gap


@pytest.mark.parametrize("of_none", [mean_length, median_length])
def test_the_length_of_no_captions_is_refused(of_none: Callable[[Histogram], float]) -> None:
    for none in ({}, {3: 0}):
        with pytest.raises(ValueError, match="no captions"):
            of_none(none)


def test_the_distance_from_no_captions_is_refused() -> None:
    for first, second in (({}, {1: 1}), ({1: 1}, {}), ({1: 1}, {1: 0})):
        with pytest.raises(ValueError, match="no captions"):
            wasserstein(first, second)
