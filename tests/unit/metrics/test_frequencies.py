"""Document frequencies: their definition, and merging."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.metrics.frequencies import DocumentFrequencies, merge_frequencies
from raycap.metrics.ngrams import NUM_ORDERS, hash_tokens
from tests.support.metric_references import Tokens
from tests.support.token_corpora import captions, parted

IMAGES = st.lists(st.lists(captions(max_size=6), max_size=3), max_size=6)


def by_definition(references: list[list[Tokens]]) -> dict[int, int]:
    """Count, by hash, the images that have an n-gram in any reference."""
    images: Counter[int] = Counter()
    for image in references:
        images.update(
            {
                int(hash_tokens([tokens[start : start + order]]).ngrams[order - 1, 0])
                for tokens in image
                for order in range(1, NUM_ORDERS + 1)
                for start in range(len(tokens) - order + 1)
            }
        )
    return dict(images)


def assert_identical(found: DocumentFrequencies, expected: DocumentFrequencies) -> None:
    np.testing.assert_array_equal(found.hashes, expected.hashes)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert found.num_images == expected.num_images


@settings(deadline=None, max_examples=50)
@given(IMAGES)
def test_an_ngram_counts_once_for_each_image_that_has_it(references: list[list[Tokens]]) -> None:
    found = DocumentFrequencies.of(references)
    assert found.num_images == len(references)
    assert found.hashes.tolist() == sorted(found.hashes.tolist())
    counts = dict(zip(found.hashes.tolist(), found.counts.tolist(), strict=True))
    assert counts == by_definition(references)


@settings(deadline=None)
@given(parted(IMAGES))
def test_frequencies_of_any_parts_merge_into_those_of_the_whole(
    drawn: tuple[list[list[Tokens]], list[list[int]]],
) -> None:
    references, parts = drawn
    counted = [DocumentFrequencies.of([references[at] for at in part]) for part in parts]
    whole = DocumentFrequencies.of(references)
    assert_identical(merge_frequencies(counted), whole)
    first, *others = counted
    assert_identical(merge_frequencies([first, merge_frequencies(others)]), whole)


def test_an_unknown_n_gram_counts_0() -> None:
    found = DocumentFrequencies.of([[["a", "dog"]], [["a"]]])
    asked = hash_tokens([["cat"], ["dog"], ["a"], ["a"]]).ngrams[0]
    assert found.counts_of(asked).tolist() == [0, 1, 2, 2]
    assert DocumentFrequencies.of([]).counts_of(asked).tolist() == [0] * 4


def test_no_parts_merge_into_frequencies_of_no_images() -> None:
    assert_identical(merge_frequencies([]), DocumentFrequencies.of([]))
