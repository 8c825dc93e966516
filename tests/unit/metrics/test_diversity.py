"""How varied captions are: definitions by brute force, and merging."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.metrics.diversity import (
    DiversityCounts,
    count_diversity,
    hash_captions,
    merge_diversity,
    merge_hashes,
)
from tests.support.metric_references import Tokens
from tests.support.token_corpora import captions, parted

CAPTIONS = st.lists(captions(), max_size=12)


def repeats(tokens: Tokens) -> bool:
    return any(
        tokens[start : start + length] == tokens[start + length : start + 2 * length]
        for length in range(1, 5)
        for start in range(len(tokens) - 2 * length + 1)
    )


def assert_identical(found: DiversityCounts, expected: DiversityCounts) -> None:
    for field in fields(DiversityCounts):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


@settings(deadline=None)
@given(CAPTIONS, CAPTIONS)
def test_counts_equal_their_definitions(texts: list[Tokens], training: list[Tokens]) -> None:
    found = count_diversity(texts, hash_captions(training))
    tokens = [token for text in texts for token in text]
    pairs = [pair for text in texts for pair in pairwise(text)]
    assert (found.num_captions, found.num_tokens, found.num_pairs) == (
        len(texts),
        len(tokens),
        len(pairs),
    )
    assert found.vocabulary_size == len(set(tokens))
    assert found.distinct_1 == len(set(tokens)) / max(1, len(tokens))
    assert found.distinct_2 == len(set(pairs)) / max(1, len(pairs))
    assert found.num_different_captions == len(set(map(tuple, texts)))
    assert found.repetition == sum(map(repeats, texts)) / max(1, len(texts))
    assert found.copied == sum(text in training for text in texts) / max(1, len(texts))


@settings(deadline=None)
@given(parted(CAPTIONS), CAPTIONS)
def test_counts_of_any_parts_merge_into_those_of_the_whole(
    drawn: tuple[list[Tokens], list[list[int]]], training: list[Tokens]
) -> None:
    texts, parts = drawn
    known = hash_captions(training)
    counted = [count_diversity([texts[at] for at in part], known) for part in parts]
    whole = count_diversity(texts, known)
    assert_identical(merge_diversity(counted), whole)
    first, *others = counted
    assert_identical(merge_diversity([first, merge_diversity(others)]), whole)


@settings(deadline=None)
@given(parted(CAPTIONS))
def test_hashes_of_any_parts_merge_into_those_of_the_whole(
    drawn: tuple[list[Tokens], list[list[int]]],
) -> None:
    texts, parts = drawn
    hashed = [hash_captions([texts[at] for at in part]) for part in parts]
    np.testing.assert_array_equal(merge_hashes(hashed), hash_captions(texts))


@pytest.mark.parametrize(
    ("caption", "repetitive"),
    [
        ("a dog runs", False),
        ("a dog dog runs", True),
        ("on a table on a table", True),
        ("a b c d a b c d", True),
        ("a b c d e a b c d e", False),  # a run of five
        ("a dog and a dog", False),  # not at once
        ("", False),
    ],
)
def test_a_caption_repeats_where_a_run_of_tokens_follows_itself_at_once(
    caption: str, repetitive: bool
) -> None:
    # The neighbours begin as it ends and end as it begins: runs must not cross captions.
    tokens = caption.split()
    found = count_diversity([tokens[-1:], tokens, tokens[:1]])
    assert found.num_repetitive == repetitive


def test_without_training_captions_none_is_copied() -> None:
    assert count_diversity([["a", "dog"]]).copied == 0
    assert count_diversity([["a", "dog"]], hash_captions([["a dog"]])).copied == 0


def test_no_captions_have_shares_of_0() -> None:
    found = count_diversity([])
    assert (found.distinct_1, found.distinct_2, found.repetition, found.copied) == (0, 0, 0, 0)
    assert merge_hashes([]).tolist() == []
    with pytest.raises(ValueError, match="no captions"):
        merge_diversity([])
