"""CIDEr-D: pycocoevalcap's scores, and what depends on the corpus."""

import numpy as np
from hypothesis import assume, given, settings

from raycap.metrics.cider import score_cider_d
from raycap.metrics.corpus import Corpus
from raycap.metrics.frequencies import DocumentFrequencies, merge_frequencies
from tests.support.metric_references import Tokenized, pycoco_cider_d, split
from tests.support.token_corpora import corpora, parted_corpora, take


def score(corpus: Tokenized, frequencies: DocumentFrequencies | None = None) -> np.ndarray:
    if frequencies is None:
        frequencies = DocumentFrequencies.of(corpus.references)
    return score_cider_d(Corpus.of(*corpus), frequencies)


@settings(deadline=None)
@given(corpora())
def test_cider_d_equals_pycocoevalcaps(corpus: Tokenized) -> None:
    # Without any, pycocoevalcap fails: it looks for the most frequent of no n-grams.
    assume(any(any(image) for image in corpus.references))
    _, of_each = pycoco_cider_d(corpus)
    np.testing.assert_allclose(score(corpus), of_each, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(parted_corpora())
def test_parts_score_as_the_whole_does_to_the_last_bit(
    drawn: tuple[Tokenized, list[list[int]]],
) -> None:
    corpus, parts = drawn
    taken = [take(corpus, part) for part in parts]
    frequencies = merge_frequencies([DocumentFrequencies.of(part.references) for part in taken])
    whole = score(corpus)
    for part, images in zip(taken, parts, strict=True):
        np.testing.assert_array_equal(score(part, frequencies), whole[images])


def test_a_corpus_of_one_image_scores_0() -> None:
    corpus = Tokenized(split("a dog runs"), [split("a dog runs", "the dog")])
    assert score(corpus).tolist() == [0]


def test_an_ngram_that_every_image_has_weighs_nothing() -> None:
    corpus = Tokenized(split("a", "a"), [split("a"), split("a")])
    assert score(corpus).tolist() == [0, 0]


def test_a_caption_equal_to_its_references_scores_10() -> None:
    corpus = Tokenized(
        split("a dog runs fast", "two cats sleep inside"),
        [split("a dog runs fast", "a dog runs fast"), split("two cats sleep inside")],
    )
    np.testing.assert_allclose(score(corpus), 10, atol=1e-12)


def test_a_caption_that_repeats_a_word_gains_nothing() -> None:
    others = [split("a dog runs"), split("two cats sleep")]
    once = score(Tokenized(split("dog", "x"), others))[0]
    thrice = score(Tokenized(split("dog dog dog", "x"), others))[0]
    assert 0 < thrice < once


def test_no_references_with_words_score_0() -> None:
    corpus = Tokenized([["a"], []], [[[]], [[], []]])
    assert score(corpus).tolist() == [0, 0]
