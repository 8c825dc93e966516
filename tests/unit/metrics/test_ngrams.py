"""n-grams as hashes: the same in every process, different for different n-grams; and counts."""

from collections import Counter
from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.metrics.ngrams import NUM_ORDERS, count_ngrams, hash_texts, hash_tokens
from raycap.metrics.tokenizer import tokenize
from tests.support.metric_references import Tokens, coco_captions
from tests.support.token_corpora import captions

DIGESTS = {"": "e4a6a0577479b2b4", "dog": "3984c7c1d25e9c9f", "犬": "9d56e8835162b93c"}
"""What `b2sum -l 64` prints of these texts."""


def ngrams_of(tokens: Tokens) -> list[tuple[str, ...]]:
    return [
        tuple(tokens[start : start + order])
        for order in range(1, NUM_ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    ]


def hash_of(*tokens: str) -> int:
    """Hash the n-gram of these one to four tokens."""
    return int(hash_tokens([tokens]).ngrams[len(tokens) - 1, 0])


def mix(value: int) -> int:
    """Finalize as SplitMix64 does."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_texts_are_hashed_by_blake2b_in_every_process() -> None:
    expected = [int.from_bytes(bytes.fromhex(digest), "little") for digest in DIGESTS.values()]
    assert hash_texts(DIGESTS).tolist() == expected


def test_an_ngrams_hash_is_its_tokens_hashes_mixed_in_order() -> None:
    assert mix(1234567 + 0x9E3779B97F4A7C15) == 6457827717110365317  # a published value
    tokens = ["a", "dog", "犬", "a"]
    for order in range(1, NUM_ORDERS + 1):
        expected = 0
        for token in tokens[:order]:
            expected = (mix(expected) + hash_of(token)) % 2**64
        assert hash_of(*tokens[:order]) == expected


def test_ngrams_of_the_same_text_otherwise_parted_differ() -> None:
    alike = [("a", "b"), ("b", "a"), ("ab",), ("a", "a"), ("a",), ("a", "a", "a"), ("a b",)]
    assert len({hash_of(*ngram) for ngram in alike}) == len(alike)


def test_no_two_ngrams_of_15_000_captions_share_a_hash() -> None:
    sentences = [tokenize(caption) for caption in chain.from_iterable(coco_captions()[:3000])]
    different = set(chain.from_iterable(map(ngrams_of, sentences)))
    assert len(count_ngrams(sentences).hashes) == len(different) > 180_000


@settings(deadline=None)
@given(st.lists(captions(), max_size=6))
def test_each_sentences_ngrams_are_counted(sentences: list[Tokens]) -> None:
    found = count_ngrams(sentences)
    rows = zip(
        found.sentences.tolist(),
        found.hashes[found.ngrams].tolist(),
        (found.orders[found.ngrams] + 1).tolist(),
        found.counts.tolist(),
        strict=True,
    )
    expected = [
        (number, hash_of(*ngram), len(ngram), count)
        for number, tokens in enumerate(sentences)
        for ngram, count in Counter(ngrams_of(tokens)).items()
    ]
    assert list(rows) == sorted(expected)
    assert (np.diff(found.hashes.astype(object)) > 0).all()


def test_lone_surrogates_are_hashed_as_any_text() -> None:
    assert len(set(hash_texts(["\ud800", "\ud801", "\ufffd"]).tolist())) == 3
