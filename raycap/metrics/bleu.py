"""BLEU-1 to BLEU-4 from counts that add up over images.

Source: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation"; with
the constants of coco-caption, and the reference length closest to that of the hypothesis.
"""

import numpy as np
from jaxtyping import Float64, Int64, Real

from raycap.metrics.corpus import Corpus
from raycap.metrics.frequencies import distinct
from raycap.metrics.ngrams import NUM_ORDERS

NUM_BLEU_COUNTS = 10
"""Correct n-grams of orders 1 to 4, n-grams of orders 1 to 4 in the hypothesis, its length, and the
closest length of a reference; lengths in tokens."""

_TINY = 1e-15
_SMALL = 1e-9


def count_bleu(corpus: Corpus) -> Int64[np.ndarray, "images 10"]:
    """Count what `corpus_bleu` needs of each image. Rows add up: their sum is the corpus's."""
    lengths = corpus.lengths[: corpus.num_images]
    guessed = np.maximum(0, lengths[:, None] - np.arange(NUM_ORDERS))
    return np.column_stack([_correct(corpus), guessed, lengths, _closest_lengths(corpus)])


def corpus_bleu(counts: Real[np.ndarray, "*batch 10"]) -> Float64[np.ndarray, "*batch 4"]:
    """Compute BLEU-1 to BLEU-4 from sums of images' counts; from one image's counts, its own score.

    Where no n-gram of an order is correct, the score is tiny instead of 0, as in coco-caption.
    """
    correct, guessed = counts[..., :NUM_ORDERS], counts[..., NUM_ORDERS : 2 * NUM_ORDERS]
    precisions = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    ratio = (counts[..., -2] + _TINY) / (counts[..., -1] + _SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return np.asarray(precisions ** (1 / np.arange(1, NUM_ORDERS + 1)) * brevity[..., None])


def _correct(corpus: Corpus) -> Int64[np.ndarray, "images 4"]:
    """Count the n-grams found in references, each at most as often as one reference has it."""
    ngrams, hypothesis = corpus.ngrams, corpus.matched_hypothesis
    most = np.zeros(len(ngrams.counts), np.int64)
    np.maximum.at(most, hypothesis, ngrams.counts[corpus.matched_reference])
    found = distinct(hypothesis)
    clipped = np.minimum(most[found], ngrams.counts[found])
    cells = ngrams.sentences[found] * NUM_ORDERS + ngrams.orders[ngrams.ngrams[found]]
    correct = np.zeros(corpus.num_images * NUM_ORDERS, np.int64)
    np.add.at(correct, cells, clipped)
    return correct.reshape(-1, NUM_ORDERS)


def _closest_lengths(corpus: Corpus) -> Int64[np.ndarray, " images"]:
    """Return the reference length closest to that of the hypothesis; of two, the shorter."""
    lengths = corpus.lengths[corpus.num_images :]
    distances = np.abs(lengths - corpus.lengths[corpus.image_of])
    order = np.lexsort((lengths, distances, corpus.image_of))
    _, first = np.unique(corpus.image_of[order], return_index=True)
    return lengths[order[first]]
