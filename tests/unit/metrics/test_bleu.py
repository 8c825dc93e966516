"""BLEU: its counts by hand and by brute force, its scores by pycocoevalcap."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from raycap.metrics.bleu import NUM_BLEU_COUNTS, corpus_bleu, count_bleu
from raycap.metrics.corpus import Corpus
from tests.support.metric_references import Tokenized, Tokens, pycoco_bleu, split
from tests.support.token_corpora import corpora, parted_corpora, take


def counts_of(hypotheses: list[Tokens], references: list[list[Tokens]]) -> np.ndarray:
    return count_bleu(Corpus.of(hypotheses, references))


def ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    starts = range(len(tokens) - order + 1)
    return Counter(tuple(tokens[start : start + order]) for start in starts)


def counts_by_definition(hypothesis: Tokens, references: list[Tokens]) -> list[int]:
    correct, guessed = [], []
    for order in range(1, 5):
        found = ngrams(hypothesis, order)
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= ngrams(reference, order)
        correct.append((found & most).total())
        guessed.append(found.total())
    length = len(hypothesis)
    closest = min(map(len, references), key=lambda other: (abs(other - length), other))
    return [*correct, *guessed, length, closest]


def test_an_ngram_counts_as_often_as_in_the_reference_that_has_it_most() -> None:
    references = split("the cat is on the mat", "there is a cat on the mat")
    found = counts_of([["the"] * 7], [references])  # the example of Papineni et al.
    assert found.tolist() == [[2, 0, 0, 0, 7, 6, 5, 4, 7, 7]]


@pytest.mark.parametrize(
    ("lengths", "closest"), [([4, 8], 4), ([8, 4], 4), ([5, 7, 100], 5), ([9, 0], 9), ([6], 6)]
)
def test_of_two_references_as_close_in_length_the_shorter_counts(
    lengths: list[int], closest: int
) -> None:
    found = counts_of([["a"] * 6], [[["b"] * length for length in lengths]])
    assert found[0, -1] == closest


@settings(deadline=None)
@given(corpora())
def test_counts_equal_their_definition(corpus: Tokenized) -> None:
    pairs = zip(corpus.hypotheses, corpus.references, strict=True)
    assert counts_of(*corpus).tolist() == [counts_by_definition(*pair) for pair in pairs]


@settings(deadline=None)
@given(corpora())
def test_bleu_equals_pycocoevalcaps(corpus: Tokenized) -> None:
    counts = counts_of(*corpus)
    expected, of_each = pycoco_bleu(corpus)
    np.testing.assert_allclose(corpus_bleu(counts).T, of_each, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(corpus_bleu(counts.sum(axis=0)), expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(parted_corpora())
def test_counts_of_parts_add_up_to_those_of_the_whole(
    drawn: tuple[Tokenized, list[list[int]]],
) -> None:
    corpus, parts = drawn
    sums = [counts_of(*take(corpus, part)).sum(axis=0) for part in parts]
    whole = counts_of(*corpus).sum(axis=0)
    assert np.sum(sums, axis=0).tolist() == whole.tolist()
    np.testing.assert_array_equal(corpus_bleu(np.sum(sums, axis=0)), corpus_bleu(whole))


def test_bleu_of_resamples_is_computed_at_once() -> None:
    counts = counts_of([["a", "dog"], ["a"]], [[["a", "dog"]], [["a", "dog"]]])
    weights = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    found = corpus_bleu(weights @ counts)
    assert found.shape == (3, 4)
    for row, weight in zip(found, weights, strict=True):
        np.testing.assert_array_equal(row, corpus_bleu(weight @ counts))


def test_a_perfect_caption_scores_1_and_one_that_shares_nothing_almost_0() -> None:
    counts = counts_of(
        [["a", "dog", "runs", "fast"], ["z"] * 4], [[["a", "dog", "runs", "fast"]], [["y"] * 4]]
    )
    np.testing.assert_allclose(corpus_bleu(counts)[0], 1.0, atol=1e-8)
    assert (corpus_bleu(counts)[1] < 1e-3).all()


def test_no_images_have_counts_of_no_rows() -> None:
    assert counts_of([], []).shape == (0, NUM_BLEU_COUNTS)
    assert corpus_bleu(np.zeros(NUM_BLEU_COUNTS)).tolist() == [0, 0, 0, 0]
