"""BLEU, ROUGE-L and CIDEr-D of whole corpora: published values, pycocoevalcap's, and parts."""

from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from raycap.evaluation.java import PtbTokenizer
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.frequencies import DocumentFrequencies, merge_frequencies
from raycap.metrics.scores import ImageScores, mean, score_images
from raycap.metrics.tokenizer import tokenize
from tests.support import metric_references as references
from tests.support.metric_references import (
    Texts,
    Tokenized,
    assert_equals_published,
    ptb_tokens,
    score_all,
)
from tests.support.token_corpora import parted_corpora, take

BLEU_COUNTS = [0, 1, 2, 3, 8, 9]
"""Those of the counts that are published."""


@pytest.fixture(scope="module")
def ptb() -> Iterator[PtbTokenizer]:
    with PtbTokenizer() as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def coco(ptb: PtbTokenizer) -> Tokenized:
    return ptb_tokens(ptb, references.coco_texts())


def own_tokens(texts: Texts) -> Tokenized:
    return Tokenized(
        [tokenize(text) for text in texts.hypotheses],
        [[tokenize(text) for text in image] for image in texts.references],
    )


def assert_equals_pycoco(corpus: Tokenized) -> None:
    found = score_all(corpus)
    bleu = corpus_bleu(found.bleu_counts.sum(axis=0))
    assert_close((bleu, found.bleu.T), references.pycoco_bleu(corpus))
    assert_close((mean(found.rouge_l), found.rouge_l), references.pycoco_rouge_l(corpus))
    assert_close((mean(found.cider_d), found.cider_d), references.pycoco_cider_d(corpus))


def assert_close(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    """Compare a corpus's score, and those of its images."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


# Published values


def test_scores_of_two_sentences_equal_published_ones() -> None:
    found = score_all(references.TWO_SENTENCES)
    assert_equals_published(found, references.OF_TWO_SENTENCES, atol=5e-7)
    np.testing.assert_allclose(found.rouge_l, references.ROUGE_L_OF_EACH, rtol=0, atol=5e-9)
    np.testing.assert_allclose(found.cider_d, references.CIDER_D_OF_EACH, rtol=0, atol=5e-9)
    assert_equals_pycoco(references.TWO_SENTENCES)


def test_scores_leaving_one_of_cocos_captions_out_equal_published_ones(coco: Tokenized) -> None:
    found = score_all(coco)
    assert_equals_published(found, references.OF_COCO, atol=1e-9)
    counts = found.bleu_counts.sum(axis=0)[BLEU_COUNTS].tolist()
    assert counts == references.BLEU_COUNTS_OF_COCO
    assert_equals_pycoco(coco)


def test_scores_of_coco_captions_own_example_equal_those_it_prints(
    ptb: PtbTokenizer, real_photos: Path
) -> None:
    corpus = ptb_tokens(ptb, references.golden_texts(real_photos))
    found = score_all(corpus)
    assert_equals_published(found, references.OF_GOLDEN, atol=1e-9)
    counts = found.bleu_counts.sum(axis=0)[BLEU_COUNTS].tolist()
    assert counts == references.BLEU_COUNTS_OF_GOLDEN
    assert_equals_pycoco(corpus)


def test_our_own_tokenizer_leaves_cocos_scores_as_they_are(coco: Tokenized) -> None:
    assert own_tokens(references.coco_texts()) == coco


def test_our_own_tokenizer_leaves_the_scores_of_coco_captions_example_as_they_are(
    real_photos: Path,
) -> None:
    found = score_all(own_tokens(references.golden_texts(real_photos)))
    assert_equals_published(found, references.OF_GOLDEN, atol=1e-9)


# Parts of a corpus


def score_parts(corpus: Tokenized, parts: list[list[int]]) -> ImageScores:
    """Score part by part, and put the images' scores back into the corpus's order."""
    taken = [take(corpus, images) for images in parts]
    frequencies = merge_frequencies([DocumentFrequencies.of(part.references) for part in taken])
    scores = [score_images(part.hypotheses, part.references, frequencies) for part in taken]
    order = np.argsort(np.array(list(chain.from_iterable(parts)), np.int64))
    names = [field.name for field in fields(ImageScores)]
    return ImageScores(
        **{
            name: np.concatenate([getattr(score, name) for score in scores])[order]
            for name in names
        }
    )


def assert_identical(found: ImageScores, expected: ImageScores) -> None:
    for field in fields(ImageScores):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


@settings(deadline=None, max_examples=60)
@given(parted_corpora())
def test_scores_of_any_parts_are_those_of_the_whole_to_the_last_bit(
    drawn: tuple[Tokenized, list[list[int]]],
) -> None:
    corpus, parts = drawn
    found, expected = score_parts(corpus, parts), score_all(corpus)
    assert_identical(found, expected)
    for order in (slice(None), slice(None, None, -1)):
        assert mean(found.cider_d[order]) == mean(expected.cider_d)
        assert mean(found.rouge_l[order]) == mean(expected.rouge_l)


@pytest.mark.parametrize("num_parts", [2, 7, 250])
def test_parts_of_cocos_captions_score_as_the_whole_does_to_the_last_bit(
    coco: Tokenized, num_parts: int
) -> None:
    order = np.random.default_rng(num_parts).permutation(len(coco.hypotheses))
    parts = [part.tolist() for part in np.array_split(order, num_parts)]
    assert_identical(score_parts(coco, parts), score_all(coco))


# Edges


def test_no_images_have_no_scores_and_no_mean() -> None:
    found = score_all(Tokenized([], []))
    assert (found.bleu_counts.shape, found.bleu.shape) == ((0, 10), (0, 4))
    assert (len(found.rouge_l), len(found.cider_d)) == (0, 0)
    with pytest.raises(ValueError, match="no values"):
        mean(found.cider_d)


def test_an_empty_caption_scores_0_even_where_a_reference_is_empty() -> None:
    corpus = Tokenized([[], [], ["a", "dog"]], [[["a", "dog"], []], [[]], [["a", "dog"]]])
    found = score_all(corpus)
    assert found.bleu[:2].tolist() == [[0] * 4] * 2
    assert found.rouge_l.tolist() == [0, 0, pytest.approx(1)]
    assert found.cider_d[:2].tolist() == [0, 0]
    assert found.cider_d[2] > 0


@pytest.mark.parametrize(
    ("hypotheses", "others"), [([["a"]], [[]]), ([["a"]], []), ([], [[["a"]]])]
)
def test_images_without_caption_or_references_are_refused(
    hypotheses: list[list[str]], others: list[list[list[str]]]
) -> None:
    frequencies = DocumentFrequencies.of(others)
    with pytest.raises(ValueError, match="hypothesis"):
        score_images(hypotheses, others, frequencies)
